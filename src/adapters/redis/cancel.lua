-- Marks a record: its order is to go no further.
--
-- KEYS   1 the record
-- ARGV   1 progress of one passage; 2 the passage; 3 the mark, up to the progress it stands at
-- Reply  the record, marked, or one of
local ABSENT, ENDED, ENDS = 0, -1, -2
local key, span, passage = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local tail = tail_at(key)
local progress, word = progress_of(tail)
local known = progress and math.floor(progress / span)
if not progress or known < passage then
  return ABSENT
elseif known > passage or word == 'end' then
  return ENDED
elseif word == 'complete' or word == 'fail' then
  return ENDS
elseif word ~= 'cancel' then
  call('APPEND', key, ARGV[3] .. string.match(tail, '(%d+)%]$') .. ',"cancel"]')
end
return call('GET', key)
