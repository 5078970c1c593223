-- Shows what hosts of Weftline say to each other inside WireGuard: hands decrypted payloads that are Geneve to Wireshark's
-- dissector of that, and names our option and control frames. PROTOCOL.md beside this folder has the layouts.
-- Needs Wireshark or tshark from 4.0 on, and the keys (`wg.keylog_file`).

local weft = Proto("weftline", "Weftline")

local GENEVE_PORT = 6081
local GENEVE_BYTES = 8
local OPTION_CLASS = 0xff01
local OPTION_SEGMENT = 0x04
local CONTROL_ETHERTYPE = 0x88b5
local CONTROL_HEAD_BYTES = 4
local FIELD_HEAD_BYTES = 4

local KINDS = { "Hello", "Probe", "Probe reply", "Revoked", "Bye" }
local CIPHERS = { "ChaCha20-Poly1305", "AES-256-GCM" }

local f = {
  gso_size = ProtoField.uint16("weftline.segment.gso_size", "Payload bytes of a segment", base.DEC),
  index = ProtoField.uint8("weftline.segment.index", "Index", base.DEC),
  count = ProtoField.uint8("weftline.segment.count", "Segments", base.DEC),
  super_id = ProtoField.uint16("weftline.segment.super_id", "Super-packet", base.HEX),
  partial = ProtoField.bool("weftline.segment.partial", "Transport checksum unfinished", 8, nil, 0x01),
  udp = ProtoField.bool("weftline.segment.udp", "UDP", 8, nil, 0x02),
  ecn = ProtoField.bool("weftline.segment.ecn", "Super-packet had CWR", 8, nil, 0x04),
  header_bytes = ProtoField.uint8("weftline.segment.header_bytes", "Bytes to the end of the transport header", base.DEC),

  version = ProtoField.uint8("weftline.control.version", "Version", base.DEC),
  kind = ProtoField.uint8("weftline.control.kind", "Kind", base.DEC, KINDS),
  length = ProtoField.uint16("weftline.control.length", "Bytes of fields", base.DEC),
  answers = ProtoField.bool("weftline.hello.answers", "Has the peer's hello", 8, nil, 0x01),
  wants_answer = ProtoField.bool("weftline.hello.wants_answer", "Wants an answer", 8, nil, 0x02),
  wire_version = ProtoField.uint16("weftline.hello.wire_version", "Wire version", base.DEC),
  features = ProtoField.uint32("weftline.hello.features", "Features", base.HEX),
  takes_segments = ProtoField.bool("weftline.hello.features.segments", "Option SEG", 32, nil, 0x01),
  takes_partial = ProtoField.bool("weftline.hello.features.partial_checksum", "Unfinished checksums", 32, nil, 0x02),
  cipher = ProtoField.uint8("weftline.hello.offer.cipher", "Offered sub-session: cipher", base.DEC, CIPHERS),
  receiver = ProtoField.uint32("weftline.hello.offer.receiver", "Offered sub-session: receiver", base.HEX),
  probe_id = ProtoField.uint64("weftline.probe.id", "Probe", base.DEC),
  padding = ProtoField.none("weftline.padding", "Padding"),
  observed4 = ProtoField.ipv4("weftline.probe.observed.ip", "Seen at"),
  observed6 = ProtoField.ipv6("weftline.probe.observed.ipv6", "Seen at"),
  observed_port = ProtoField.uint16("weftline.probe.observed.port", "Seen at port", base.DEC),
  statement = ProtoField.bytes("weftline.revoked.statement", "Signed statement"),
  unknown = ProtoField.bytes("weftline.control.unknown", "Unknown field"),
}
local fields = {}
for _, field in pairs(f) do
  fields[#fields + 1] = field
end
weft.fields = fields

-- What each field of a control frame is, by its type.
local function flags(tree, value)
  tree:add(f.answers, value)
  tree:add(f.wants_answer, value)
end

local function features(tree, value)
  local below = tree:add(f.features, value)
  below:add(f.takes_segments, value)
  below:add(f.takes_partial, value)
end

local function offer(tree, value)
  tree:add(f.cipher, value(0, 1))
  tree:add(f.receiver, value(1, 4))
end

local function observed(tree, value)
  local ip_bytes = value:len() - 2
  tree:add(ip_bytes == 4 and f.observed4 or f.observed6, value(0, ip_bytes))
  tree:add(f.observed_port, value(ip_bytes, 2))
end

local function plainly(field)
  return function(tree, value)
    tree:add(field, value)
  end
end

-- With the lengths that each may have.
local FIELDS = {
  [0] = { plainly(f.padding) },
  [1] = { plainly(f.wire_version), 2 },
  [2] = { features, 4 },
  [3] = { offer, 5 },
  [4] = { flags, 1 },
  [5] = { plainly(f.probe_id), 8 },
  [6] = { observed, 6, 18 },
  [7] = { plainly(f.statement) },
}

local function has_length(known, bytes)
  return known[2] == nil or bytes == known[2] or bytes == known[3]
end

local function add_field(tree, kind, value)
  local known = FIELDS[kind]
  if known and has_length(known, value:len()) then
    known[1](tree, value)
  else
    tree:add(f.unknown, value)
  end
end

local function add_fields(tree, body)
  local at = 0
  while at + FIELD_HEAD_BYTES <= body:len() do
    local kind = body(at, 2):uint()
    local bytes = body(at + 2, 2):uint()
    at = at + FIELD_HEAD_BYTES
    if at + bytes > body:len() then
      tree:add_expert_info(PI_MALFORMED, PI_ERROR, "A field is longer than the frame")
      return
    end
    if bytes > 0 then
      add_field(tree, kind, body(at, bytes))
    end
    at = at + bytes
  end
end

-- Whether a payload is being shown: frames of this type elsewhere are somebody else's experiment.
local is_inside = false

local control = Proto("weftline_control", "Weftline control frame")
function control.dissector(tvb, pinfo, root)
  if not is_inside or tvb:len() < CONTROL_HEAD_BYTES or tvb(0, 1):uint() ~= 1 then
    return 0
  end
  local name = KINDS[tvb(1, 1):uint()] or "Unknown control frame"
  pinfo.cols.protocol = "Weftline"
  pinfo.cols.info = string.format("%s, %d bytes", name, GENEVE_BYTES + tvb:len())
  local tree = root:add(weft, tvb(), "Weftline, " .. name)
  tree:add(f.version, tvb(0, 1))
  tree:add(f.kind, tvb(1, 1))
  tree:add(f.length, tvb(2, 2))
  local bytes = math.min(tvb(2, 2):uint(), tvb:len() - CONTROL_HEAD_BYTES)
  if bytes > 0 then
    add_fields(tree, tvb(CONTROL_HEAD_BYTES, bytes))
  end
  return tvb:len()
end
DissectorTable.get("ethertype"):add(CONTROL_ETHERTYPE, control)

local function add_segment(root, option)
  local index, count = option(2, 1):uint(), option(3, 1):uint()
  local tree = root:add(weft, option, string.format("Weftline, option SEG: %d of %d", index + 1, count))
  tree:add(f.gso_size, option(0, 2))
  tree:add(f.index, option(2, 1))
  tree:add(f.count, option(3, 1))
  tree:add(f.super_id, option(4, 2))
  tree:add(f.partial, option(6, 1))
  tree:add(f.udp, option(6, 1))
  tree:add(f.ecn, option(6, 1))
  tree:add(f.header_bytes, option(7, 1))
end

local function add_options(root, payload)
  local at = GENEVE_BYTES
  local options_end = math.min(at + payload(0, 1):bitfield(2, 6) * 4, payload:len())
  while at + 4 <= options_end do
    local bytes = payload(at + 3, 1):bitfield(3, 5) * 4
    local is_segment = payload(at, 2):uint() == OPTION_CLASS and payload(at + 2, 1):uint() == OPTION_SEGMENT
    if is_segment and bytes == 8 and at + 12 <= options_end then
      add_segment(root, payload(at + 4, bytes))
    end
    at = at + 4 + bytes
  end
end

-- Not every version knows it by its name.
local geneve = Dissector.get("geneve") or DissectorTable.get("udp.port"):get_dissector(GENEVE_PORT)
local ip = Dissector.get("ip")
local wg_type = Field.new("wg.type")
local as_data = Field.new("data")
local as_ip = Field.new("ip")
local DATA_MESSAGE = 4

-- Wireshark takes a payload for IP, which begins with a 4 or a 6 and is told to be bogus otherwise, or for data where it
-- is told not to look (`wg.dissect_packet`).
local function decrypted()
  for _, data in ipairs({ as_data() }) do
    if data.offset == 0 and data.len == data.source:len() then
      return data.source, true
    end
  end
  for _, packet in ipairs({ as_ip() }) do
    if packet.offset == 0 and packet.len == 1 then
      return packet.source, false
    end
  end
end

local function show_geneve(payload, pinfo, root)
  is_inside = true
  local is_whole, problem = pcall(geneve.call, geneve, payload, pinfo, root)
  is_inside = false
  if not is_whole then
    error(problem, 0)
  end
end

function weft.dissector(_, pinfo, root)
  local kind = wg_type()
  if not kind or kind.value ~= DATA_MESSAGE then
    return
  end
  local payload, is_raw = decrypted()
  if not payload or payload:len() == 0 then
    return
  end
  local first = payload(0, 1):bitfield(0, 4)
  if first <= 3 and payload:len() >= GENEVE_BYTES then
    show_geneve(payload, pinfo, root)
    add_options(root, payload)
  elseif is_raw and (first == 4 or first == 6) then
    ip:call(payload, pinfo, root)
  end
end
register_postdissector(weft, true)
