-- Wireshark dissector for PRP/1, the Push Routing Protocol.
--
--   tshark -X lua_script:tools/wireshark/prp.lua -r capture.pcap -Y pushprp
--   or copy this file into Wireshark's personal Lua plugin folder (Help > About > Folders).
--
-- Takes UDP port 17400 (preference pushprp.port), and, by a heuristic, PRP on any other UDP port: that is
-- how the datagrams inside VXLAN and GTP-U and those at a terminal's own port are found.
--
-- Filters: pushprp.kind == 3, pushprp.reason == 13, pushprp.destination[0] == 30, pushprp.error. (Plain "prp" is
-- taken: Wireshark knows the Parallel Redundancy Protocol by it.)
-- pushprp.error is what a server would answer ("malformed", "unsupported-version", ...); which rule is
-- broken is told by an expert info of its own, pushprp.malformed.<rule>.
--
-- Works with Wireshark 4.0 (Lua 5.2) and later ones.

local prp = Proto("pushprp", "Push Routing Protocol")

local VERSION = 1
local DEFAULT_PORT = 17400
local HEADER_LENGTH = 48

prp.prefs.port = Pref.uint("UDP port", DEFAULT_PORT, "UDP port that is always taken as PRP; 0 for none")
prp.prefs.heuristic = Pref.bool("Look for PRP on other ports", true,
  "Take any UDP datagram whose header and options are those of a PRP message")

---------------------------------------------------------------------------------------------------
-- Words of the protocol

local KINDS = {
  [1] = "PUSH", [2] = "RECEIPT", [3] = "REJECT", [4] = "REGISTER", [5] = "REGISTERED",
  [6] = "RELEASE", [7] = "RELEASED", [8] = "GROUP", [9] = "GROUPED", [10] = "RESOLVE",
  [11] = "RESOLVED", [12] = "ECHO", [13] = "ECHOED", [14] = "INTRODUCE",
}

local REASONS = {
  [1] = "malformed", [2] = "unsupported-version", [3] = "unsupported-option",
  [4] = "application-not-allowed", [5] = "source-address-not-allowed",
  [6] = "authentication-failed", [7] = "stale-or-replayed", [8] = "unknown-source",
  [9] = "unknown-destination", [10] = "no-route", [11] = "hop-limit", [12] = "no-gateway",
  [13] = "not-attached", [14] = "gateway-failed", [15] = "expired", [16] = "rate-limited",
  [17] = "overloaded", [18] = "too-large", [19] = "unknown-group", [20] = "not-permitted",
  [21] = "bearer-failed", [22] = "unknown-name", [23] = "no-peer-address",
  [24] = "unsupported-kind",
}

local GROUP_OPERATIONS = { [1] = "create", [2] = "join", [3] = "leave", [4] = "list", [5] = "delete" }

local OPTION_NAMES = {
  [1] = "Deadline", [2] = "Device", [3] = "PrivateAddress", [4] = "NatAddress", [5] = "Realm",
  [6] = "Imsi", [7] = "Validity", [8] = "DynamicId", [9] = "Reason", [10] = "Name",
  [11] = "GroupId", [12] = "ServingServer", [13] = "Bearers", [14] = "SourceAddress",
  [15] = "PeerAddress", [16] = "ListenPort", [17] = "ContentType", [18] = "GroupRequest",
  [19] = "PayloadLength", [128] = "Auth",
}
local AUTH = 128

-- What a kind needs: one of the options listed.
local NEEDS = {
  [3] = { 9 }, [4] = { 16, 3, 12 }, [5] = { 7 }, [6] = { 2, 3, 6 }, [8] = { 18 }, [9] = { 18 },
  [10] = { 10 },
}

---------------------------------------------------------------------------------------------------
-- Fields

local f = {
  version = ProtoField.uint8("pushprp.version", "Version", base.DEC, nil, 0xf0),
  kind = ProtoField.uint8("pushprp.kind", "Kind", base.DEC, KINDS, 0x0f),
  flags = ProtoField.uint8("pushprp.flags", "Flags", base.HEX),
  flag_reserved = ProtoField.uint8("pushprp.flags.reserved", "Reserved", base.HEX, nil, 0xf0),
  flag_group = ProtoField.bool("pushprp.flags.group", "Destination is a group", 8, nil, 0x08),
  flag_roamed = ProtoField.bool("pushprp.flags.roamed", "Roamed: already passed its home server", 8, nil, 0x04),
  flag_priority = ProtoField.bool("pushprp.flags.priority", "Priority", 8, nil, 0x02),
  flag_receipt = ProtoField.bool("pushprp.flags.receipt", "Receipt wanted", 8, nil, 0x01),
  hop_limit = ProtoField.uint8("pushprp.hop_limit", "Hop limit", base.DEC),
  header_length = ProtoField.uint8("pushprp.header_length", "Header length in words", base.DEC),
  application = ProtoField.uint32("pushprp.application", "Application", base.DEC),
  destination = ProtoField.bytes("pushprp.destination", "Destination Push ID", base.NONE),
  source = ProtoField.bytes("pushprp.source", "Source Push ID", base.NONE),
  message = ProtoField.uint64("pushprp.message", "Message identifier", base.HEX),

  option = ProtoField.bytes("pushprp.option", "Option", base.NONE),
  option_type = ProtoField.uint8("pushprp.option.type", "Type", base.DEC, OPTION_NAMES),
  option_critical = ProtoField.bool("pushprp.option.critical", "Critical", 8, nil, 0x80),
  option_length = ProtoField.uint8("pushprp.option.length", "Length", base.DEC),
  option_value = ProtoField.bytes("pushprp.option.value", "Value", base.NONE),
  option_padding = ProtoField.bytes("pushprp.option.padding", "Padding", base.NONE),

  deadline = ProtoField.uint64("pushprp.deadline", "Deadline, ms since 1970", base.DEC),
  deadline_time = ProtoField.absolute_time("pushprp.deadline.time", "Deadline", base.UTC),
  device = ProtoField.uint8("pushprp.device", "Device", base.DEC),
  realm = ProtoField.uint32("pushprp.realm", "Realm", base.DEC),
  imsi = ProtoField.string("pushprp.imsi", "IMSI"),
  validity = ProtoField.uint32("pushprp.validity", "Validity in seconds", base.DEC),
  dynamic_id = ProtoField.bytes("pushprp.dynamic_id", "Push ID lent", base.NONE),
  reason = ProtoField.uint16("pushprp.reason", "Reason", base.DEC, REASONS),
  reason_text = ProtoField.string("pushprp.reason.text", "Text", base.UNICODE),
  name = ProtoField.string("pushprp.name", "Name", base.UNICODE),
  group_id = ProtoField.bytes("pushprp.group_id", "Group", base.NONE),
  bearers = ProtoField.uint32("pushprp.bearers", "Bearers", base.HEX),
  bearer_packet = ProtoField.bool("pushprp.bearers.packet_data", "Packet data", 32, nil, 0x1),
  bearer_requested = ProtoField.bool("pushprp.bearers.network_requested", "Network-requested packet data", 32, nil, 0x2),
  bearer_sms = ProtoField.bool("pushprp.bearers.short_message", "Short message", 32, nil, 0x4),
  bearer_sip = ProtoField.bool("pushprp.bearers.sip", "SIP", 32, nil, 0x8),
  listen_port = ProtoField.uint16("pushprp.listen_port", "Listen port", base.DEC),
  content_type = ProtoField.string("pushprp.content_type", "Content type"),
  group_request = ProtoField.uint8("pushprp.group_request", "Group request", base.DEC, GROUP_OPERATIONS),
  payload_length = ProtoField.uint16("pushprp.payload_length", "Payload length", base.DEC),
  auth_key = ProtoField.uint32("pushprp.auth.key", "Key identifier", base.DEC),
  auth_time_ms = ProtoField.uint64("pushprp.auth.time_ms", "Time, ms since 1970", base.DEC),
  auth_time = ProtoField.absolute_time("pushprp.auth.time", "Time", base.UTC),
  auth_tag = ProtoField.bytes("pushprp.auth.tag", "Tag (AES-128-CMAC)", base.NONE),

  padding = ProtoField.bytes("pushprp.padding", "Padding of the datagram", base.NONE),
  rest = ProtoField.bytes("pushprp.rest", "Of another version", base.NONE),
  error = ProtoField.string("pushprp.error", "Would be refused as"),
}

-- The five options that hold an address and a port: the whole as text, and its parts.
local ADDRESSES = {
  [3] = { "private_address", "Private address" },
  [4] = { "nat_address", "Public (NAT) address" },
  [12] = { "serving_server", "Serving server" },
  [14] = { "source_address", "Source address" },
  [15] = { "peer_address", "Peer address" },
}
for type, entry in pairs(ADDRESSES) do
  local filter, label = "pushprp." .. entry[1], entry[2]
  local parts = {
    text = ProtoField.string(filter, label),
    ipv4 = ProtoField.ipv4(filter .. ".ipv4", "IPv4 address"),
    ipv6 = ProtoField.ipv6(filter .. ".ipv6", "IPv6 address"),
    port = ProtoField.uint16(filter .. ".port", "Port", base.DEC),
  }
  ADDRESSES[type] = parts
  for part, field in pairs(parts) do
    f[entry[1] .. "_" .. part] = field
  end
end

prp.fields = f

local function malformed(rule, text)
  return ProtoExpert.new("pushprp.malformed." .. rule, text, expert.group.MALFORMED, expert.severity.ERROR)
end

local function unsupported(what, text)
  return ProtoExpert.new("pushprp.unsupported." .. what, text, expert.group.UNDECODED, expert.severity.WARN)
end

local e = {
  datagram_too_short = malformed("datagram_too_short", "The datagram is shorter than the header of 48 bytes"),
  header_length_below_12 = malformed("header_length_below_12", "The header length is below 12 words"),
  header_length_beyond_datagram =
    malformed("header_length_beyond_datagram", "The header length goes past the end of the datagram"),
  option_past_header = malformed("option_past_header", "The option goes past the header length"),
  wrong_length = malformed("wrong_length", "The value has a length that this option cannot have"),
  duplicate_option = malformed("duplicate_option", "The option was there before"),
  auth_not_last = malformed("auth_not_last", "Auth is not the last option"),
  payload_length_beyond_datagram =
    malformed("payload_length_beyond_datagram", "PayloadLength is more than what is there"),
  invalid_utf8 = malformed("invalid_utf8", "The text is not UTF-8"),
  invalid_text = malformed("invalid_text", "The media type is not ASCII"),
  invalid_tbcd = malformed("invalid_tbcd", "Not an IMSI: 6 to 15 decimal digits in TBCD, then only filler"),
  missing_option = malformed("missing_option", "An option that this kind needs is absent"),
  version = unsupported("version", "Another version than 1"),
  kind = unsupported("kind", "A kind that version 1 does not have"),
  option = unsupported("option", "A critical option that version 1 does not have"),
  reason = ProtoExpert.new("pushprp.reason.unknown", "A reason that version 1 does not have",
    expert.group.PROTOCOL, expert.severity.NOTE),
  rejected = ProtoExpert.new("pushprp.rejected", "The message was rejected",
    expert.group.RESPONSE_CODE, expert.severity.CHAT),
  cut_off = ProtoExpert.new("pushprp.cut_off", "The capture holds only the beginning of this datagram",
    expert.group.UNDECODED, expert.severity.NOTE),
}
prp.experts = e

---------------------------------------------------------------------------------------------------
-- Values

-- The index of the first byte that makes `text` no UTF-8 (RFC 3629: shortest form, no surrogates,
-- nothing beyond U+10FFFF), or nil. Lua 5.2 has no utf8 library.
local function utf8_error(text)
  local at, size = 1, #text
  while at <= size do
    local first = text:byte(at)
    local more, low, high = 0, 0x80, 0xbf
    if first < 0x80 then
      more = 0
    elseif first >= 0xc2 and first <= 0xdf then
      more = 1
    elseif first >= 0xe0 and first <= 0xef then
      more = 2
      if first == 0xe0 then low = 0xa0 elseif first == 0xed then high = 0x9f end
    elseif first >= 0xf0 and first <= 0xf4 then
      more = 3
      if first == 0xf0 then low = 0x90 elseif first == 0xf4 then high = 0x8f end
    else
      return at
    end
    for next = 1, more do
      local byte = text:byte(at + next)
      if not byte or byte < low or byte > high then return at end
      low, high = 0x80, 0xbf
    end
    at = at + 1 + more
  end
  return nil
end

-- The digits of an IMSI, and whether they are one.
local function tbcd(octets)
  local digits, ended, good = {}, false, true
  for index = 1, #octets do
    local octet = octets:byte(index)
    for _, nibble in ipairs({ octet % 16, math.floor(octet / 16) }) do
      if nibble == 15 then
        ended = true
      else
        if ended or nibble > 9 then good = false end
        digits[#digits + 1] = string.format("%x", nibble)
      end
    end
  end
  return table.concat(digits), good and #digits >= 6 and #digits <= 15
end

-- Milliseconds since 1970 as Wireshark's time. A number of Lua could not hold all 64 bits.
local function time_of(range)
  local ms = range:uint64()
  return NSTime.new((ms / 1000):tonumber(), (ms % 1000):tonumber() * 1000000)
end

-- RFC 5952, which Wireshark's own text of an address follows too.
local function address_text(range)
  local ip_length = range:len() - 2
  local port = range(ip_length, 2):uint()
  if ip_length == 4 then
    return string.format("%s:%d", tostring(range(0, 4):ipv4()), port)
  end
  return string.format("[%s]:%d", tostring(range(0, 16):ipv6()), port)
end

---------------------------------------------------------------------------------------------------
-- Options: what lengths a value may have, and how it is shown. `show` gets the tree of the option,
-- the value (never empty here) and the state of the message, and returns the text of its line.

local function simple(field, text)
  return function(tree, value)
    tree:add(field, value)
    return text(value)
  end
end

local function decimal(value) return tostring(value:uint()) end
local function hexadecimal(value) return tostring(value:bytes()):lower() end

local function utf8_text(tree, field, value, state)
  local item = tree:add_packet_field(field, value, ENC_UTF_8)
  if utf8_error(value:raw()) then
    item:add_proto_expert_info(e.invalid_utf8)
    state.refuse("malformed")
  end
  return value:string(ENC_UTF_8)
end

local function show_time(field_ms, field_time)
  return function(tree, value)
    tree:add(field_ms, value)
    local item = tree:add(field_time, value, time_of(value))
    item:set_generated()
    return tostring(value:uint64()) .. " ms"
  end
end

local function show_address(type)
  local fields = ADDRESSES[type]
  return function(tree, value)
    local text = address_text(value)
    local inner = tree:add(fields.text, value, text)
    local ip_length = value:len() - 2
    inner:add(ip_length == 4 and fields.ipv4 or fields.ipv6, value(0, ip_length))
    inner:add(fields.port, value(ip_length, 2))
    return text
  end
end

local function exactly(length)
  return function(found) return found == length end
end

local function address_length(found) return found == 6 or found == 18 end

local OPTIONS = {
  [1] = { exactly(8), show_time(f.deadline, f.deadline_time) },
  [2] = { exactly(1), function(tree, value)
    local number = value:uint()
    tree:add(f.device, value):append_text(number == 0 and " (all terminals)" or "")
    return tostring(number)
  end },
  [5] = { exactly(4), simple(f.realm, decimal) },
  [6] = { exactly(8), function(tree, value, state)
    local digits, good = tbcd(value:raw())
    local item = tree:add(f.imsi, value, digits)
    if not good then
      item:add_proto_expert_info(e.invalid_tbcd)
      state.refuse("malformed")
    end
    return digits
  end },
  [7] = { exactly(4), function(tree, value)
    local seconds = value:uint()
    tree:add(f.validity, value):append_text(seconds == 0 and " (static)" or "")
    return seconds == 0 and "static" or seconds .. " s"
  end },
  [8] = { exactly(16), simple(f.dynamic_id, hexadecimal) },
  [9] = { function(found) return found >= 2 end, function(tree, value, state)
    local code = value(0, 2):uint()
    local item = tree:add(f.reason, value(0, 2))
    state.reason = REASONS[code] or "reason " .. code
    if not REASONS[code] then item:add_proto_expert_info(e.reason) end
    if value:len() == 2 then return state.reason end
    return state.reason .. ": " .. utf8_text(tree, f.reason_text, value(2), state)
  end },
  [10] = { function(found) return found >= 1 end, function(tree, value, state)
    return utf8_text(tree, f.name, value, state)
  end },
  [11] = { exactly(16), simple(f.group_id, hexadecimal) },
  [13] = { exactly(4), function(tree, value)
    local inner = tree:add(f.bearers, value)
    for _, field in ipairs({ f.bearer_packet, f.bearer_requested, f.bearer_sms, f.bearer_sip }) do
      inner:add(field, value)
    end
    return string.format("0x%x", value:uint())
  end },
  [16] = { exactly(2), simple(f.listen_port, decimal) },
  [17] = { function() return true end, function(tree, value, state)
    local item = tree:add_packet_field(f.content_type, value, ENC_UTF_8)
    if value:raw():find("[\128-\255]") then
      item:add_proto_expert_info(e.invalid_text)
      state.refuse("malformed")
    end
    return value:string(ENC_UTF_8)
  end },
  [18] = { exactly(4), function(tree, value)
    local operation = value(0, 1):uint()
    tree:add(f.group_request, value(0, 1))
    return GROUP_OPERATIONS[operation] or tostring(operation)
  end },
  [19] = { exactly(2), function(tree, value, state)
    state.payload_length = value:uint()
    state.payload_length_item = tree:add(f.payload_length, value)
    return tostring(state.payload_length)
  end },
  [AUTH] = { exactly(28), function(tree, value, state)
    tree:add(f.auth_key, value(0, 4))
    tree:add(f.auth_time_ms, value(4, 8))
    tree:add(f.auth_time, value(4, 8), time_of(value(4, 8))):set_generated()
    tree:add(f.auth_tag, value(12, 16))
    state.signed = true
    return "key " .. value(0, 4):uint()
  end },
}
for type in pairs(ADDRESSES) do
  OPTIONS[type] = { address_length, show_address(type) }
end

---------------------------------------------------------------------------------------------------
-- The datagram

local function dissect_option(tvb, tree, at, stop, state)
  local type, length = tvb(at, 1):uint(), tvb(at + 1, 1):uint()
  local size = 2 + length + (-(2 + length)) % 4
  local known = OPTIONS[type]
  local title = OPTION_NAMES[type] or (type >= 128 and "Critical option " or "Option ") .. type
  local fits = at + size <= stop
  -- A value that would go on into the payload is not shown as one.
  local shown = fits and size or stop - at
  local option = tree:add(f.option, tvb(at, shown))
  option:set_text(title)
  option:add(f.option_type, tvb(at, 1))
  option:add(f.option_critical, tvb(at, 1))
  option:add(f.option_length, tvb(at + 1, 1))

  if not fits then
    option:add_proto_expert_info(e.option_past_header)
    state.refuse("malformed")
    return nil
  end
  if state.seen[AUTH] and not state.auth_told then
    option:add_proto_expert_info(e.auth_not_last)
    state.auth_told = true
    state.refuse("malformed")
  end
  if known and state.seen[type] then
    option:add_proto_expert_info(e.duplicate_option)
    state.refuse("malformed")
  end
  state.seen[type] = true

  local value = length > 0 and tvb(at + 2, length) or nil
  if value then option:add(f.option_value, value) end
  if not known then
    if type >= 128 then
      option:add_proto_expert_info(e.option)
      state.refuse("unsupported-option")
    end
    if value then option:append_text(": " .. hexadecimal(value)) end
  elseif not known[1](length) then
    option:add_proto_expert_info(e.wrong_length)
    state.refuse("malformed")
  elseif value then
    option:append_text(": " .. known[2](option, value, state))
  end
  if size > 2 + length then
    option:add(f.option_padding, tvb(at + 2 + length, size - 2 - length))
  end
  return at + size
end

-- Which of two refusals a server names: the one that stands first here.
local ORDER = { ["malformed"] = 1, ["unsupported-version"] = 2, ["unsupported-kind"] = 3, ["unsupported-option"] = 4 }

local function dissect(tvb, pinfo, tree)
  local captured, size = tvb:captured_len(), tvb:reported_len()
  pinfo.cols.protocol = "PRP"
  pinfo.cols.info = ""
  local top = tree:add(prp, tvb())

  local state = { seen = {} }
  function state.refuse(why)
    if not state.error or ORDER[why] < ORDER[state.error] then state.error = why end
  end
  local function finish()
    if state.error then
      top:add(f.error, tvb(0, 0), state.error):set_generated()
      pinfo.cols.info:append(" [" .. state.error .. "]")
    end
    return captured
  end

  if size < HEADER_LENGTH then
    pinfo.cols.info = string.format("%d bytes", size)
    top:add_proto_expert_info(e.datagram_too_short)
    state.refuse("malformed")
    return finish()
  end
  if captured < HEADER_LENGTH then
    top:add_proto_expert_info(e.cut_off)
    return captured
  end

  -- The first 48 bytes, which every version keeps.
  local version, kind = tvb(0, 1):bitfield(0, 4), tvb(0, 1):bitfield(4, 4)
  local flags, words = tvb(1, 1):uint(), tvb(3, 1):uint()
  local version_item = top:add(f.version, tvb(0, 1))
  local kind_item = top:add(f.kind, tvb(0, 1))
  local flag_tree = top:add(f.flags, tvb(1, 1))
  for _, field in ipairs({ f.flag_reserved, f.flag_group, f.flag_roamed, f.flag_priority, f.flag_receipt }) do
    flag_tree:add(field, tvb(1, 1))
  end
  top:add(f.hop_limit, tvb(2, 1))
  local words_item = top:add(f.header_length, tvb(3, 1)):append_text(string.format(" (%d bytes)", words * 4))
  top:add(f.application, tvb(4, 4))
  top:add(f.destination, tvb(8, 16))
  top:add(f.source, tvb(24, 16))
  top:add(f.message, tvb(40, 8))

  local label = KINDS[kind] or "kind " .. kind
  local flag_words = {}
  for bit, word in ipairs({ "RECEIPT", "PRIORITY", "ROAMED", "GROUP" }) do
    if math.floor(flags / 2 ^ (bit - 1)) % 2 == 1 then flag_words[#flag_words + 1] = word end
  end
  pinfo.cols.info = string.format("%s to %s id %s%s", label, hexadecimal(tvb(8, 16)), hexadecimal(tvb(40, 8)),
    #flag_words > 0 and " " .. table.concat(flag_words, ",") or "")
  top:append_text(", " .. label)

  local stop = words * 4
  if words < 12 then
    words_item:add_proto_expert_info(e.header_length_below_12)
    state.refuse("malformed")
    return finish()
  end
  if stop > size then
    words_item:add_proto_expert_info(e.header_length_beyond_datagram)
    state.refuse("malformed")
    return finish()
  end
  -- Every version keeps the header, its length included; what stands behind it is version 1's.
  if version ~= VERSION then
    version_item:add_proto_expert_info(e.version)
    state.refuse("unsupported-version")
    if captured > HEADER_LENGTH then top:add(f.rest, tvb(HEADER_LENGTH)) end
    return finish()
  end
  if not KINDS[kind] then
    kind_item:add_proto_expert_info(e.kind)
    state.refuse("unsupported-kind")
  end

  if stop > captured then
    top:add_proto_expert_info(e.cut_off)
    return finish()
  end

  local at = HEADER_LENGTH
  while at and at < stop do
    at = dissect_option(tvb, top, at, stop, state)
  end

  -- Only a header whose options could all be read can be said to lack one.
  local needs = NEEDS[kind]
  if at and needs then
    local found, names = false, {}
    for _, type in ipairs(needs) do
      found = found or state.seen[type]
      names[#names + 1] = OPTION_NAMES[type]
    end
    if not found then
      kind_item:add_proto_expert_info(e.missing_option, label .. " needs " .. table.concat(names, ", or "))
      state.refuse("malformed")
    end
  end

  local there = size - stop
  local payload = there
  if state.payload_length then
    if state.payload_length > there then
      state.payload_length_item:add_proto_expert_info(e.payload_length_beyond_datagram)
      state.refuse("malformed")
    else
      payload = state.payload_length
    end
  end
  payload = math.min(payload, captured - stop)
  -- What ContentType says may come from anywhere, so it starts no other dissector.
  if payload > 0 then Dissector.get("data"):call(tvb(stop, payload):tvb(), pinfo, top) end
  if captured > stop + payload then top:add(f.padding, tvb(stop + payload)) end
  if captured < size then top:add_proto_expert_info(e.cut_off) end

  if state.reason then
    pinfo.cols.info:append(" " .. state.reason)
    if kind == 3 and not state.error then kind_item:add_proto_expert_info(e.rejected, "Rejected: " .. state.reason) end
  end
  if there > 0 then pinfo.cols.info:append(string.format(" len %d", payload)) end
  if state.signed then pinfo.cols.info:append(" signed") end
  return finish()
end

function prp.dissector(tvb, pinfo, tree)
  return dissect(tvb, pinfo, tree)
end

-- Whether a datagram on some other port is PRP. Strict, because every UDP datagram that nothing else
-- claims passes here: the header must be in bounds and the options must fill it exactly, with lengths
-- that known options have and none of them twice.
local function looks_like_prp(tvb)
  local size = tvb:captured_len()
  if size < HEADER_LENGTH then return false end
  local kind, words = tvb(0, 1):bitfield(4, 4), tvb(3, 1):uint()
  if tvb(0, 1):bitfield(0, 4) ~= VERSION or not KINDS[kind] then return false end
  if tvb(1, 1):bitfield(0, 4) ~= 0 then return false end
  local stop = words * 4
  if words < 12 or stop > size then return false end
  local at, seen = HEADER_LENGTH, {}
  while at < stop do
    local type, length = tvb(at, 1):uint(), tvb(at + 1, 1):uint()
    local option = OPTIONS[type]
    if option and (seen[type] or not option[1](length)) then return false end
    if seen[AUTH] then return false end
    seen[type] = true
    at = at + 2 + length + (-(2 + length)) % 4
  end
  return at == stop
end

local function heuristic(tvb, pinfo, tree)
  if not prp.prefs.heuristic or not looks_like_prp(tvb) then return false end
  dissect(tvb, pinfo, tree)
  return true
end

local udp_port = DissectorTable.get("udp.port")
local registered_port = 0

local function register_port()
  if registered_port ~= 0 then udp_port:remove(registered_port, prp) end
  registered_port = prp.prefs.port
  if registered_port ~= 0 then udp_port:add(registered_port, prp) end
end

function prp.prefs_changed()
  if prp.prefs.port ~= registered_port then register_port() end
end

register_port()
prp:register_heuristic("udp", heuristic)
