-- Some of the records of orders that have not ended.
--
-- ARGV   1 the cursor; 2 the pattern of the keys; 3 how many keys to look at, about
-- Reply  the next cursor, then of each record its key and its text (nothing if it is no text)
local part = call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local reply = { part[1] }
for _, key in ipairs(part[2]) do
  -- Most may have ended: the whole text of those in flight only.
  local tail = tail_at(key)
  local progress, word = progress_of(tail)
  if not progress or word ~= 'end' then
    reply[#reply + 1] = key
    reply[#reply + 1] = type(tail) == 'string' and call('GET', key)
  end
end
return reply
