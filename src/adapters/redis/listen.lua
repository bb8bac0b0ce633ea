-- Reads the live feed. KEYS: the stream. ARGV: the entry to read from, whether that one is wanted as well (1) or was read
-- whole (0), and the number of entries.
--
-- The reply: whether the entry is (still) there, then the ids and contents of entries. If it is not there, those after it
-- may be gone as well, or all of it may have been lost and begun anew: then everything that is kept is given.
local stream, id, inclusive, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local known = 0
if #redis.call('XRANGE', stream, id, id) > 0 then known = 1 end
local reply = { known }
local from = '-'
if known == 1 then from = id end
for _, entry in ipairs(redis.call('XRANGE', stream, from, '+', 'COUNT', limit + 1)) do
  if #reply > limit then break end
  if known == 0 or inclusive == '1' or entry[1] ~= id then
    reply[#reply + 1] = { entry[1], entry[2][4], entry[2][6] }
  end
end
return reply
