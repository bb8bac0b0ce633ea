-- Notes that orders have ended: their records take nothing more, and go after a while.
--
-- KEYS   a record each
-- ARGV   1 progress of one passage; 2 time to live of an ended record, ms; 3 '1' if records are long
--        then for each run of keys that have this in common: how many they are; the orders' progress; what comes for
--        each key of the run beside its end: `nothing`, the `digest` of the order's content, or the `record` to write
--        in the place of one of other content
--        and for each key of the run: its end, and what else was announced
-- Reply  which keys (from 0) belong to an order of other content: nothing was written there
local span, ttl, are_long = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'
local texts, seen, others = read_all(are_long), {}, {}
local i, a = 0, 4
while i < #KEYS do
  local given, brings = tonumber(ARGV[a + 1]), ARGV[a + 2]
  local last = i + tonumber(ARGV[a])
  a = a + 3
  while i < last do
    i = i + 1
    local key, text, ending, brought = KEYS[i], texts[i], ARGV[a], nil
    a = a + 1
    if seen[key] then
      text = read(key, are_long)
    end
    seen[key] = true
    if brings ~= 'nothing' then
      brought = ARGV[a]
      a = a + 1
    end
    local progress, word = progress_of(text or '')
    if progress then
      local passage, known = math.floor(given / span), math.floor(progress / span)
      local digest = brought and brought_digest(brings, brought)
      if passage > known then
        -- The whole passage went by without this record: the archive has what it lacks.
        redis.call('DEL', key)
      elseif passage == known and word ~= 'end' then
        local is_others = digest and digest ~= known_digest(key, text, are_long)
        if is_others and brings ~= 'record' then
          others[#others + 1] = i - 1
        else
          -- First of all: a full Redis would refuse a script whose first write takes memory, and ends are what frees it.
          redis.call('PEXPIRE', key, ttl)
          if is_others then
            redis.call('SET', key, brought .. ending, 'PX', ttl)
          else
            redis.call('APPEND', key, ending)
          end
        end
      end
    end
  end
end
return others
