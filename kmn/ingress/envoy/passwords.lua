-- Passwords of basic authentication that Envoy's own filter cannot compare: {SHA} and $apr1$ (htpasswd), $1$ (crypt).
-- A route's filter context has `users` (name to hash) and `realm`.

local bit = require("bit")
local band, bor, bxor, bnot = bit.band, bit.bor, bit.bxor, bit.bnot
local rol, tobit, lshift, rshift = bit.rol, bit.tobit, bit.lshift, bit.rshift

local function bytes_of(word, little)
  local a, b, c, d = band(word, 255), band(rshift(word, 8), 255), band(rshift(word, 16), 255), rshift(word, 24)
  if little then return string.char(a, b, c, d) end
  return string.char(d, c, b, a)
end

-- The text in blocks of 16 words, with its length behind it: RFC 1321 3.1, RFC 3174 4.
local function blocks(text, little)
  local high, low = bytes_of(0), bytes_of(#text * 8, little)
  local padded = text .. "\128" .. string.rep("\0", (55 - #text) % 64) .. (little and low .. high or high .. low)
  local position = 1
  return function()
    if position > #padded then return nil end
    local words = {}
    for i = 0, 15 do
      local a, b, c, d = padded:byte(position + 4 * i, position + 4 * i + 3)
      if little then a, b, c, d = d, c, b, a end
      words[i] = bor(lshift(a, 24), lshift(b, 16), lshift(c, 8), d)
    end
    position = position + 64
    return words
  end
end

local SINES, TURNS = {}, { { 7, 12, 17, 22 }, { 5, 9, 14, 20 }, { 4, 11, 16, 23 }, { 6, 10, 15, 21 } }
for i = 0, 63 do SINES[i] = tobit(math.floor(math.abs(math.sin(i + 1)) * 4294967296)) end

local function md5(text)
  local a0, b0, c0, d0 = 0x67452301, tobit(0xefcdab89), tobit(0x98badcfe), 0x10325476
  for words in blocks(text, true) do
    local a, b, c, d = a0, b0, c0, d0
    for i = 0, 63 do
      local f, word
      if i < 16 then f, word = bor(band(b, c), band(bnot(b), d)), i
      elseif i < 32 then f, word = bor(band(d, b), band(bnot(d), c)), (5 * i + 1) % 16
      elseif i < 48 then f, word = bxor(b, c, d), (3 * i + 5) % 16
      else f, word = bxor(c, bor(b, bnot(d))), (7 * i) % 16 end
      local sum = tobit(a + f + SINES[i] + words[word])
      a, d, c, b = d, c, b, tobit(b + rol(sum, TURNS[math.floor(i / 16) + 1][i % 4 + 1]))
    end
    a0, b0, c0, d0 = tobit(a0 + a), tobit(b0 + b), tobit(c0 + c), tobit(d0 + d)
  end
  return bytes_of(a0, true) .. bytes_of(b0, true) .. bytes_of(c0, true) .. bytes_of(d0, true)
end

local function sha1(text)
  local h = { 0x67452301, tobit(0xefcdab89), tobit(0x98badcfe), 0x10325476, tobit(0xc3d2e1f0) }
  for words in blocks(text, false) do
    for i = 16, 79 do words[i] = rol(bxor(words[i - 3], words[i - 8], words[i - 14], words[i - 16]), 1) end
    local a, b, c, d, e = h[1], h[2], h[3], h[4], h[5]
    for i = 0, 79 do
      local f, k
      if i < 20 then f, k = bor(band(b, c), band(bnot(b), d)), 0x5a827999
      elseif i < 40 then f, k = bxor(b, c, d), 0x6ed9eba1
      elseif i < 60 then f, k = bor(band(b, c), band(b, d), band(c, d)), 0x8f1bbcdc
      else f, k = bxor(b, c, d), 0xca62c1d6 end
      a, b, c, d, e = tobit(rol(a, 5) + f + e + k + words[i]), a, rol(b, 30), c, d
    end
    for i, word in ipairs({ a, b, c, d, e }) do h[i] = tobit(h[i] + word) end
  end
  local found = ""
  for _, word in ipairs(h) do found = found .. bytes_of(word, false) end
  return found
end

-- crypt's MD5, which Apache has with a name of its own.
local LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

local function md5_crypt(magic, salt, password)
  local final, context = md5(password .. salt .. password), password .. magic .. salt
  for left = #password, 1, -16 do context = context .. final:sub(1, math.min(16, left)) end
  local rest = #password
  while rest > 0 do
    context = context .. (rest % 2 == 1 and "\0" or password:sub(1, 1))
    rest = math.floor(rest / 2)
  end
  final = md5(context)
  for round = 0, 999 do
    local odd = round % 2 == 1
    local text = odd and password or final
    if round % 3 ~= 0 then text = text .. salt end
    if round % 7 ~= 0 then text = text .. password end
    final = md5(text .. (odd and final or password))
  end
  local found = ""
  local function add(a, b, c, count)
    local value = a * 65536 + b * 256 + c
    for _ = 1, count do
      found = found .. LETTERS:sub(value % 64 + 1, value % 64 + 1)
      value = math.floor(value / 64)
    end
  end
  local at = function(index) return final:byte(index + 1) end
  for i = 0, 3 do add(at(i), at(i + 6), at(i + 12), 4) end
  add(at(4), at(10), at(5), 4)
  add(0, 0, at(11), 2)
  return magic .. salt .. "$" .. found
end

local function decoded(text)
  local value, bits, found = 0, 0, {}
  for letter in text:gmatch("[A-Za-z0-9+/]") do
    local byte = letter:byte()
    local six = letter == "+" and 62 or letter == "/" and 63
      or byte < 58 and byte + 4 or byte < 91 and byte - 65 or byte - 71
    value, bits = value * 64 + six, bits + 6
    if bits >= 8 then
      bits = bits - 8
      local unit = 2 ^ bits
      found[#found + 1] = string.char(math.floor(value / unit))
      value = value % unit
    end
  end
  return table.concat(found)
end

-- A thousand rounds take about a millisecond: what was right is remembered.
local MOST = 1000
local right, count = {}, 0

local function is_right(handle, hash, password)
  local key = hash .. "\0" .. password
  if right[key] then return true end
  local magic, salt = hash:match("^(%$%w+%$)([^$]*)%$")
  local mine = magic and md5_crypt(magic, salt, password) or "{SHA}" .. handle:base64Escape(sha1(password))
  if mine ~= hash then return false end
  if count >= MOST then right, count = {}, 0 end
  right[key], count = true, count + 1
  return true
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  local given = (handle:headers():get("authorization") or ""):match("^[Bb]asic%s+(%S+)")
  local name, password = decoded(given or ""):match("^([^:]*):(.*)$")
  local hash = name and context:get("users")[name]
  if not (hash and is_right(handle, hash, password)) then
    local realm = context:get("realm"):gsub('[\\"]', "\\%0")
    handle:respond({ [":status"] = "401", ["www-authenticate"] = 'Basic realm="' .. realm .. '"' }, "")
  end
end
