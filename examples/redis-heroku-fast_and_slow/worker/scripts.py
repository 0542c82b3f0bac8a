"""What the broker lets Redis run, on a stream (KEYS[1]) and its group (ARGV[1]).

Scripts are atomic: nothing comes between the look at who holds a task and what is done to it. And a server whose memory
is full runs those that add nothing to it, where it refuses any transaction, and so could not be emptied.
"""

# A few at a time, since their size is known once they are there; those too many are set back to where they were.
CLAIM = """
local taken, left, last, over = {}, tonumber(ARGV[4]), nil, {}
while #taken < 2 * ARGV[3] and #over == 0 do
    local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', math.min(10, ARGV[3] - #taken / 2),
                            'STREAMS', KEYS[1], '>')
    if not read then break end
    for _, entry in ipairs(read[1][2]) do
        local id, payload = entry[1], entry[2][2]
        left = left - #payload
        if left < 0 and last then
            over[#over + 1] = id
        else
            taken[#taken + 1], taken[#taken + 2], last = id, payload, id
        end
    end
end
if #over > 0 then
    redis.call('XACK', KEYS[1], ARGV[1], unpack(over))
    redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last)
end
return taken
"""
# What is in the stream no more is forgotten.
RECLAIM = """
local taken, left = {}, tonumber(ARGV[4])
for _, lapsed in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[5], '-', '+', ARGV[3])) do
    local id = lapsed[1]
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
        left = left - #entry[2][2]
        if #taken > 0 and left < 0 then break end
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', lapsed[4] + 1, 'JUSTID')
        taken[#taken + 1], taken[#taken + 2], taken[#taken + 3] = id, entry[2][2], lapsed[4] + 1
    else
        redis.call('XACK', KEYS[1], ARGV[1], id)
    end
end
return taken
"""
# JUSTID: it does not count as another delivery.
RENEW = """
local lost = {}
for i = 3, #ARGV do
    local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
    if #mine == 0 or #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID') == 0 then
        lost[#lost + 1] = ARGV[i]
    end
end
return lost
"""
# The delivery is uncounted: its cluster has not died of it, and failed attempts are counted elsewhere.
RELEASE = """
for i = 5, #ARGV do
    local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])[1]
    if mine then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i],
                   'IDLE', ARGV[4], 'RETRYCOUNT', math.max(mine[4] - 1, 0), 'JUSTID')
    end
end
"""
REMOVE = """
local held, mine = {}, {}
for _, task in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000000, ARGV[2])) do held[task[1]] = true end
for i = 3, #ARGV do
    if held[ARGV[i]] then mine[#mine + 1] = ARGV[i] end
end
for i = 1, #mine, 1000 do
    local last = math.min(i + 999, #mine)
    redis.call('XACK', KEYS[1], ARGV[1], unpack(mine, i, last))
    redis.call('XDEL', KEYS[1], unpack(mine, i, last))
end
"""
ENQUEUE_ALL = "for _, payload in ipairs(ARGV) do redis.call('XADD', KEYS[1], '*', 'payload', payload) end"
# XGROUP DELCONSUMER would drop a consumer's tasks with it, so nothing may come between the look and the deletion.
TIDY = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local field = {}
    for i = 1, #consumer, 2 do field[consumer[i]] = consumer[i + 1] end
    if field.pending == 0 and field.idle > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], field.name)
    end
end
local payloads = redis.call('LRANGE', KEYS[2], 0, ARGV[3] - 1)
for _, payload in ipairs(payloads) do redis.call('XADD', KEYS[1], '*', 'payload', payload) end
redis.call('LTRIM', KEYS[2], #payloads, -1)
return #payloads
"""
