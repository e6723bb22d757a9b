"""The commands of ``kmn``: their words, options and help. What they do is in the modules beside this one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kmn.cli import complete

__all__ = ["app"]

app = typer.Typer(
    help="Kubernetes networking, emulated on real packets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)

NameOption = Annotated[
    str | None,
    typer.Option("--name", help="Which cluster; not needed when one is running.", autocompletion=complete.clusters),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace.", autocompletion=complete.namespaces)
]
FileOption = Annotated[
    list[str] | None,
    typer.Option("--filename", "-f", help="Manifest: file, folder, or - for standard input. Repeatable."),
]
RecursiveOption = Annotated[bool, typer.Option("--recursive", "-R", help="Folders of -f with those below them.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds until everything has to be ready.", min=1)]


@app.command()
def up(
    cluster_file: Annotated[
        str | None, typer.Argument(metavar="[CLUSTER.yaml]", help="Cluster file; without one: two nodes.")
    ] = None,
    filename: FileOption = None,
    recursive: RecursiveOption = False,
    name: Annotated[str | None, typer.Option(help="Name of the cluster, instead of the file's.")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running; kmn down ends it.")] = False,
    timeout: TimeoutOption = 120.0,
) -> None:
    """Bring a cluster up: with a progress display, then the Mininet CLI. Leaving that takes the cluster down."""
    from kmn.cli.up import up as run

    raise typer.Exit(run(cluster_file, filename or [], name=name, detach=detach, timeout=timeout, recursive=recursive))


@app.command()
def down(
    name: Annotated[str | None, typer.Argument(help="Which cluster.", autocompletion=complete.clusters)] = None,
    all_: Annotated[bool, typer.Option("--all", help="All that are running.")] = False,
    name_option: Annotated[str | None, typer.Option("--name", hidden=True)] = None,
) -> None:
    """Take a cluster down: nothing of it is left on the machine."""
    from kmn.cli.lifecycle import down as run

    run(name or name_option, everything=all_)


@app.command()
def clean(
    name: Annotated[str | None, typer.Argument(help="Only what this cluster left.")] = None,
) -> None:
    """Remove what crashed runs left. Running clusters are not touched."""
    from kmn.cli.lifecycle import clean as run

    run(name)


@app.command("list")
def list_(
    output: Annotated[str, typer.Option("--output", "-o", help="table | json | yaml | name")] = "table",
) -> None:
    """List the clusters on this machine."""
    from kmn.cli.lifecycle import list_clusters

    list_clusters(output)


@app.command()
def apply(
    filename: FileOption = None,
    recursive: RecursiveOption = False,
    name: NameOption = None,
    namespace: NamespaceOption = None,
) -> None:
    """Create or update objects from manifests, as kubectl apply does."""
    from kmn.cli.manifests import apply_files

    apply_files(filename or [], name, namespace, recursive=recursive)


@app.command()
def wait(name: NameOption = None, timeout: TimeoutOption = 60.0) -> None:
    """Wait until pods, Services, Ingresses and bridges are what objects ask for. Exit code 1: not in time."""
    from kmn.cli.up import wait as run

    raise typer.Exit(run(name, timeout))


@app.command()
def delete(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TYPE NAME…]", help="Or a type and names.", autocompletion=complete.objects),
    ] = None,
    filename: FileOption = None,
    recursive: RecursiveOption = False,
    name: NameOption = None,
    namespace: NamespaceOption = None,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="Missing is as good as gone.")] = False,
) -> None:
    """Delete objects: those of manifests, or by type and name."""
    from kmn.cli.manifests import delete_files, delete_named

    if filename:
        delete_files(filename, name, namespace, recursive=recursive, ignore_missing=ignore_not_found)
    else:
        delete_named(what or [], name, namespace, ignore_missing=ignore_not_found)


@app.command()
def get(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE[,TYPE…] [NAME…]",
            help="Such as: pods; svc web; deploy/web; all.",
            autocompletion=complete.objects,
        ),
    ] = None,
    filename: FileOption = None,
    name: NameOption = None,
    namespace: NamespaceOption = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")] = False,
    selector: Annotated[str | None, typer.Option("--selector", "-l", help="Label selector.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table | wide | name | json | yaml")] = "table",
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Rows only.")] = False,
) -> None:
    """Show objects."""
    from kmn.cli.get import Query, show

    show(Query(what or [], filename or [], namespace, all_namespaces, selector), name, output, headers=not no_headers)


@app.command("exec")
def exec_(
    target: Annotated[
        str,
        typer.Argument(
            metavar="POD", help="Pod, NS/POD, deploy/NAME, node/NAME or host/NAME.", autocompletion=complete.pods
        ),
    ],
    command: Annotated[list[str], typer.Argument(metavar="[-c CONTAINER] -- COMMAND…", help="What to run.")],
    name: NameOption = None,
    namespace: NamespaceOption = None,
    container: Annotated[str | None, typer.Option("--container", "-c", help="A pod's containers share all.")] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Pass standard input on.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
) -> None:
    """Run a program of this machine in a pod's network, with its exit code."""
    from kmn.cli.execute import Request, execute

    raise typer.Exit(execute(Request(target, command, namespace, container, stdin, tty), name))


@app.command()
def cli(
    name: NameOption = None,
    command: Annotated[
        list[str] | None, typer.Option("--command", "-c", help="Run this line and leave. Repeatable.")
    ] = None,
) -> None:
    """The Mininet CLI on a running cluster. Leaving it leaves the cluster running."""
    from kmn.cli.shell import attach

    raise typer.Exit(attach(name, command or []))


@app.command()
def kubeconfig(name: NameOption = None) -> None:
    """Print the path of the kubeconfig: export KUBECONFIG=$(kmn kubeconfig)."""
    from kmn.front import select_cluster
    from kmn.naming import Paths

    typer.echo(Paths(select_cluster(name).name).kubeconfig)


@app.command()
def ovs(
    node: Annotated[str, typer.Argument(help="Node, or edge.", autocompletion=complete.nodes)],
    command: Annotated[list[str], typer.Argument(metavar="-- TOOL ARGS…", help="ofctl | vsctl | appctl | dpctl …")],
    name: NameOption = None,
) -> None:
    """Run an Open vSwitch tool on a node's switch: kmn ovs n1 -- ofctl dump-flows br0."""
    from kmn.cli.execute import ovs as run

    raise typer.Exit(run(node, command, name))


policy = typer.Typer(help="What network policies allow and deny.", no_args_is_help=True)
app.add_typer(policy, name="policy")


@policy.command("explain")
def policy_explain(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Pod, TYPE/NAME, host/NAME, or an address.")],
    destination: Annotated[str, typer.Argument(metavar="TO", help="The same.")],
    port: Annotated[str, typer.Argument(metavar="PORT[/PROTOCOL]", help="Of the pod: behind a Service, its target.")],
    namespace: NamespaceOption = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text, json or yaml.")] = "text",
    staged: Annotated[bool, typer.Option("--staged", help="As if staged policies were in force.")] = False,
    name: NameOption = None,
) -> None:
    """Which policies and rules allow a connection, and what is missing where none does. No packet is sent."""
    from kmn.cli.policy import explain

    raise typer.Exit(explain(source, destination, port, namespace or "default", name, output, staged=staged))


@policy.command("log")
def policy_log(
    output: Annotated[str, typer.Option("--output", "-o", help="text, or json: an object a line.")] = "text",
    json_: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    denied: Annotated[bool, typer.Option("--denied", help="Only what is denied.")] = False,
    namespace: NamespaceOption = None,
    pod: Annotated[
        str | None, typer.Option(help="Only from or to this pod (NAME or NS/NAME).", autocompletion=complete.pods)
    ] = None,
    name: NameOption = None,
) -> None:
    """Verdicts of policies as they happen, with the policy and rule that decided. Ctrl-C ends it."""
    from kmn.cli.policylog import Filter, follow

    if pod is not None and "/" not in pod:
        pod = f"{namespace or 'default'}/{pod}"
    raise typer.Exit(follow(Filter(denied, namespace, pod), "json" if json_ else output, name))


@app.command()
def flows(
    drop: Annotated[bool, typer.Option("--drop", help="Only what is denied.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="An object a line.")] = False,
    namespace: NamespaceOption = None,
    name: NameOption = None,
) -> None:
    """The same as kmn policy log, for fingers that know other systems' word for it."""
    policy_log(json_=json_, denied=drop, namespace=namespace, name=name)


@policy.command("counters")
def policy_counters(
    namespace: NamespaceOption = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml.")] = "table",
    name: NameOption = None,
) -> None:
    """What each rule has allowed and denied so far: connections, packets, bytes."""
    from kmn.cli.policycounters import show

    raise typer.Exit(show(namespace, output, name))


ingress = typer.Typer(help="What becomes of requests that come to ingress controllers.", no_args_is_help=True)
app.add_typer(ingress, name="ingress")


@ingress.command("explain")
def ingress_explain(
    url: Annotated[str, typer.Argument(metavar="URL", help="http://HOST/PATH, https://HOST/PATH.")],
    method: Annotated[str, typer.Option("--method", "-X", help="Of the request.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'NAME: VALUE', also Host. Repeatable.")
    ] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="ADDRESS", help="The client's.")] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", help="Ask the controller of this IngressClass, or Gateways of this GatewayClass."),
    ] = None,
    controller: Annotated[str | None, typer.Option(help="Ask this one (spec.controller of its classes).")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text, json or yaml.")] = "text",
    name: NameOption = None,
) -> None:
    """Which rule a request goes by, why no other, and what becomes of it. No packet is sent. Exit code 0: it is
    forwarded or redirected; 1: it is not; 2: an error."""
    from kmn.cli.ingress import Query, show

    query = Query(url, method, tuple(header or ()), from_, class_, controller, output)
    raise typer.Exit(show(query, name))


@ingress.command("log")
def ingress_log(
    output: Annotated[str, typer.Option("--output", "-o", help="text, or json: an object a line.")] = "text",
    json_: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Only rules of objects here.", autocompletion=complete.namespaces),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Only requests for this host.")] = None,
    status: Annotated[str | None, typer.Option(help="Only answers with this status: 404, 5xx.")] = None,
    ingress_: Annotated[
        str | None, typer.Option("--ingress", metavar="[NS/]NAME", help="Only rules of this Ingress.")
    ] = None,
    tail: Annotated[int, typer.Option(min=0, help="Begin with so many of the requests before.")] = 0,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f", help="Go on with what comes.")] = True,
    name: NameOption = None,
) -> None:
    """Requests as they end: who asked for what, which rule decided, which pod answered. Ctrl-C ends it."""
    from kmn.cli.ingresslog import Filter, Query
    from kmn.cli.ingresslog import follow as run

    wanted = Filter(namespace, host, status, ingress_)
    raise typer.Exit(run(Query(wanted, "json" if json_ else output, tail, follow), name))


@ingress.command("counters")
def ingress_counters(
    namespace: NamespaceOption = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml.")] = "table",
    name: NameOption = None,
) -> None:
    """What each rule has got so far, by backend and pod: answers by class of status, bytes, durations."""
    from kmn.cli.ingresscounters import show

    raise typer.Exit(show(namespace, output, name))


@app.command()
def reach(
    port: Annotated[
        list[str] | None,
        typer.Option("--port", "-p", help="PORT or PORT/PROTOCOL. Without: those that each declares. Repeatable."),
    ] = None,
    namespace: NamespaceOption = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="In all namespaces; so it is without -n, too.")
    ] = False,
    selector: Annotated[
        str | None, typer.Option("--selector", "-l", help="Only pods with these labels, as rows and as columns.")
    ] = None,
    diff: Annotated[
        list[str] | None,
        typer.Option("--diff", help="Policies: file, folder or -. What would they open and close? Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="NAME or TYPE/NAME of a policy: what if it were deleted? Repeatable."),
    ] = None,
    staged: Annotated[bool, typer.Option("--staged", help="As if staged policies were in force.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Send packets, and say where they do otherwise.")] = False,
    most: Annotated[
        int | None,
        typer.Option("--max-probes", help="Connections that --probe tries (2,000); of more, a sample.", min=1),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", help="text | json | yaml; pictures: svg | png | html, also svg=FILE.")
    ] = "text",
    name: NameOption = None,
) -> None:
    """Which pods may connect to which, by policies: as a table or a picture, before and after a change, or tried with
    packets. Exit code 1: something differs (--diff, --without, --probe); 2: an error."""
    from kmn.cli.reach import MOST_PROBES, Query, show

    query = Query(
        port or [], namespace, all_namespaces, selector, diff or [], without or [], staged, probe, most or MOST_PROBES,
        output,
    )  # fmt: skip
    raise typer.Exit(show(query, name))


@app.command()
def demo(
    manifests: Annotated[
        list[str] | None, typer.Option("--filename", "-f", help="An application of yours instead of the shop.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    timeout: TimeoutOption = 120.0,
) -> None:
    """A shop on a cluster of several nodes, a guided tour of it, then the Mininet CLI."""
    from kmn.cli.demo import demo as run

    raise typer.Exit(run(name, timeout, manifests or []))


@app.command("test")
def selftest(
    pytest_args: Annotated[list[str] | None, typer.Argument(metavar="[-- PYTEST ARGS]", help="Only pytest.")] = None,
) -> None:
    """Lint, type check and test kmn itself."""
    from kmn.cli.selftest import run

    raise typer.Exit(run(pytest_args or []))


@app.command()
def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Measurements; none: what there is. -- --quick: small."),
    ] = None,
) -> None:
    """Measure kmn beside its peers (stock Mininet, bare Open vSwitch, Linux bridge): tables with ratios."""
    from kmn.cli.selftest import bench as run

    raise typer.Exit(run(arguments or ["--help"]))


@app.command()
def version() -> None:
    """Print the version."""
    from kmn import __version__

    typer.echo(f"kmn {__version__}")


def _show_version(wanted: Any) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Kubernetes networking, emulated on real packets."""
