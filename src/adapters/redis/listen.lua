-- Reads the live feed. KEYS: the stream. ARGV: the entry to read from, whether that one is wanted as well (1) or was read
-- whole (0), the most entries, and the bytes past which no further one is added.
--
-- The reply: whether the entry is (still) there, then the ids and contents of entries. If it is not there, those after it
-- may be gone as well, or all of it may have been lost and begun anew: then everything that is kept is given.
local stream, id, entries_max, bytes_max = KEYS[1], ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
-- Redis before 6.2 knows no open interval.
local function after(entry)
  local ms, seq = string.match(entry, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end
local reply, from = { 0 }, '-'
if #redis.call('XRANGE', stream, id, id) > 0 then
  reply[1] = 1
  from = id
  if ARGV[2] == '0' then from = after(id) end
end
local bytes = 0
-- One at a time: entries are of one event or of thousands.
while #reply <= entries_max and bytes < bytes_max do
  local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
  if not entry then break end
  reply[#reply + 1] = { entry[1], entry[2][4], entry[2][6] }
  bytes = bytes + #entry[2][6]
  from = after(entry[1])
end
return reply
