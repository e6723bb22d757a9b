"""Ingresses of class ``alb``, after the AWS Load Balancer Controller.

``annotations`` reads values, ``groups`` tells which load balancers there are and what each is like, ``conditions``,
``actions`` and ``targets`` have the parts of rules, ``rules`` puts them together.
"""
