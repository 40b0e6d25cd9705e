-- The rules of a shared environment, as one script: Redis runs it as one atomic step.
-- It has the same rules as sharing/rules/rules.py, which explains them.
--
-- KEYS: the environment (a hash), its rows (a hash), the versions of its rows (a sorted set), and
-- the answer to this write. ARGV: the operation, the channel, the arguments as JSON, and texts.
-- Returns {"ok", JSON or rows ...} or {"refused", kind, JSON}.

local FORMAT = 1
local MARK_KEPT = 24 * 60 * 60 * 1000
local ANSWERS_KEPT = 60 * 60
local ENVIRONMENT = 'notice:environment'

local operation, channel, given = ARGV[1], ARGV[2], cjson.decode(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function refuse(kind, facts)
  error({ kind = kind, facts = facts or {} })
end

local function load()
  local text = redis.call('HGET', KEYS[1], 'record')
  if not text then
    return nil
  end
  local record = cjson.decode(text)
  if record.format ~= FORMAT then
    refuse('format', { found = record.format, known = FORMAT })
  end
  return record
end

local function save(record)
  redis.call(
    'HSET', KEYS[1], 'record', cjson.encode(record), 'id', record.id, 'epoch', record.epoch,
    'done', record.done_at
  )
  if record.done_at > 0 then
    redis.call('PEXPIRE', KEYS[1], MARK_KEPT)
  else
    redis.call('PERSIST', KEYS[1])
  end
end

local function announce(what)
  redis.call('PUBLISH', channel, what)
end

local function delete_rows()
  redis.call('DEL', KEYS[2], KEYS[3])
end

local function lives(seat)
  return seat ~= nil and seat['until'] > now
end

local function has_living(record)
  for id, seat in pairs(record.members) do
    if id ~= record.owner and lives(seat) then
      return true
    end
  end
  return false
end

local function owner_lives(record)
  return lives(record.members[record.owner])
end

local function drop_locks(record, member)
  for name, holder in pairs(record.locks) do
    if string.match(holder, '^(%S+) ') == member then
      record.locks[name] = nil
    end
  end
end

local function stale(record, kind)
  refuse(kind, { id = record.id, epoch = record.epoch })
end

local function check(record)
  if not record or record.id ~= given.id or record.status == 'done' then
    refuse('unknown')
  end
  if record.epoch ~= given.epoch then
    stale(record, 'epoch')
  end
end

local function check_member(record)
  check(record)
  if not record.members[given.member] then
    stale(record, 'member')
  end
end

local function check_writer(record)
  check_member(record)
  if record.status == 'closed' and record.owner ~= given.member then
    refuse('closed')
  end
end

local function check_owner(record)
  check(record)
  if record.owner ~= given.member then
    stale(record, 'owner')
  end
end

local function seat(record)
  record.members[given.member] = { member = given.who, ['until'] = now + record.lease }
end

local function own(record)
  record.owner = given.member
  record.beats = record.beats + 1
  seat(record)
end

local function compare(record)
  if record.fingerprint ~= given.fingerprint then
    refuse('project', { theirs = cjson.decode(record.steps), ours = cjson.decode(given.steps) })
  end
end

local function shares_a_step(record)
  local known = {}
  for _, name in ipairs(cjson.decode(record.steps)) do
    known[name] = true
  end
  for _, name in ipairs(cjson.decode(given.steps)) do
    if known[name] then
      return true
    end
  end
  return false
end

local function begin(old)
  local record = {
    id = given.new_id, epoch = (old and old.epoch or 0) + 1, lease = given.lease,
    runs = given.runs, fingerprint = given.fingerprint, steps = given.steps, status = 'open',
    owner = '', caretaker = false, beats = 0, joins = 1, failures = 0,
    version = old and old.version or 0, published = false, begun_at = now, done_at = 0,
    members = {}, locks = {}, format = FORMAT,
  }
  own(record)
  delete_rows()
  save(record)
  local value = { role = 'owner' }
  if old and old.done_at > 0 then
    value.ago = now - old.done_at
  end
  return value, record
end

local function role_of(record)
  local is_open = record.status ~= 'closed'
  if not record.members[given.member] or record.caretaker then
    return nil
  end
  if record.owner == given.member then
    return is_open and 'owner' or 'heir'
  end
  return is_open and 'member' or nil
end

local changes = {}

function changes.join(record)
  if not record or record.status == 'done' then
    return begin(record)
  end
  local is_open = record.status ~= 'closed'
  local role = role_of(record)
  if role then
    seat(record)
    return { role = role }, record
  end
  if owner_lives(record) or has_living(record) then
    if record.status ~= 'open' then
      return { role = 'wait' }, record
    end
    compare(record)
    record.joins = record.joins + 1
    seat(record)
    return { role = 'member' }, record
  end
  if not record.published and is_open then
    return begin(record)
  end
  if not shares_a_step(record) then
    compare(record)
  end
  record.epoch = record.epoch + 1
  record.status, record.caretaker = 'closed', false
  record.members, record.locks = {}, {}
  record.joins, record.runs, record.failures = 1, given.runs, 0
  own(record)
  return { role = 'heir' }, record
end

function changes.renew(record)
  if not record or record.id ~= given.id or record.status == 'done' then
    refuse('unknown')
  end
  local found = record.members[given.member]
  local is_owner = record.owner == given.member
  if not found or (is_owner and record.epoch ~= given.epoch) then
    stale(record, record.epoch == given.epoch and 'member' or 'epoch')
  end
  found['until'] = now + record.lease
  if is_owner then
    record.beats = record.beats + 1
  end
  return is_owner, record
end

function changes.claim(record)
  check(record)
  if owner_lives(record) then
    return false, record
  end
  record.members[record.owner] = nil
  drop_locks(record, record.owner)
  record.epoch = record.epoch + 1
  record.caretaker = true
  own(record)
  return true, record
end

function changes.leave(record)
  check_member(record)
  if record.owner ~= given.member and not owner_lives(record) then
    return false, record
  end
  record.members[given.member] = nil
  drop_locks(record, given.member)
  if given.failed then
    record.failures = record.failures + 1
  end
  if record.owner == given.member then
    record.owner = ''
  end
  return true, record
end

function changes.end_joining(record)
  check(record)
  if record.status == 'open' then
    record.status = 'ending'
  end
  return true, record
end

function changes.close(record)
  check_owner(record)
  local is_open = record.status == 'open' and not record.caretaker
  local is_expecting = is_open and record.joins < record.runs
  if not given.anyway and (is_expecting or has_living(record)) then
    return false, record
  end
  record.status = 'closed'
  for id, found in pairs(record.members) do
    if id ~= record.owner and not lives(found) then
      record.members[id] = nil
      drop_locks(record, id)
    end
  end
  return true, record
end

function changes.restart(record)
  check_owner(record)
  if record.status ~= 'closed' or record.caretaker then
    refuse('status', { status = record.status, cure = 'only an heir opens it again' })
  end
  record.status, record.published, record.locks = 'open', false, {}
  record.fingerprint, record.steps = given.fingerprint, given.steps
  delete_rows()
  return true, record
end

function changes.done(record)
  check_owner(record)
  if record.status ~= 'closed' then
    refuse('status', { status = record.status, cure = 'close it before it is done' })
  end
  record.status, record.done_at = 'done', now
  record.owner, record.published = '', false
  record.members, record.locks = {}, {}
  delete_rows()
  return true, record
end

-- The changes above concern the environment; those below concern rows and locks.

local writes = {}

local function put(record, row, text)
  redis.call('HSET', KEYS[2], row, text)
  redis.call('ZADD', KEYS[3], record.version, row)
  announce(row)
end

function writes.publish(record)
  check_owner(record)
  record.version = record.version + 1
  record.published = true
  for index, row in ipairs(given.rows) do
    put(record, row, ARGV[3 + index])
  end
  save(record)
  return record.version
end

local function is_at(version)
  local current = tonumber(redis.call('ZSCORE', KEYS[3], given.row) or 0)
  return version == cjson.null or version == current, current
end

function writes.put(record)
  check_writer(record)
  if not is_at(given.version) then
    return 0
  end
  record.version = record.version + 1
  put(record, given.row, ARGV[4])
  save(record)
  return record.version
end

function writes.remove(record)
  check_writer(record)
  local is_expected, current = is_at(given.version)
  if not is_expected or current == 0 then
    return 0
  end
  record.version = record.version + 1
  redis.call('HDEL', KEYS[2], given.row)
  redis.call('ZREM', KEYS[3], given.row)
  announce(given.row)
  save(record)
  return record.version
end

function writes.acquire(record)
  check_writer(record)
  local holder = record.locks[given.lock]
  if holder == given.holder then
    refuse('held', { lock = given.lock })
  end
  if holder and lives(record.members[string.match(holder, '^(%S+) ')]) then
    return 0
  end
  record.locks[given.lock] = given.holder
  save(record)
  return 1
end

function writes.release(record)
  check(record)
  if record.locks[given.lock] ~= given.holder then
    refuse('lost', { lock = given.lock })
  end
  record.locks[given.lock] = nil
  save(record)
  announce('notice:lock:' .. given.lock)
  return 1
end

function writes.notify(record)
  check_member(record)
  announce('notice:' .. given.key)
  return 1
end

local function check_read()
  local found = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'done')
  if found[1] ~= given.id or found[3] ~= '0' then
    refuse('unknown')
  end
  if tonumber(found[2]) ~= given.epoch then
    refuse('epoch', { id = given.id, epoch = tonumber(found[2]) })
  end
end

local reads = {}

function reads.read()
  check_read()
  local text = redis.call('HGET', KEYS[2], given.row)
  return text and { 'ok', redis.call('ZSCORE', KEYS[3], given.row), text } or { 'ok' }
end

function reads.rows()
  check_read()
  local found, rows = { 'ok' }, nil
  rows = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. given.after, '+inf', 'WITHSCORES')
  for index = 1, #rows, 2 do
    if string.sub(rows[index], 1, #given.prefix) == given.prefix then
      found[#found + 1] = rows[index]
      found[#found + 1] = rows[index + 1]
      if given.texts then
        found[#found + 1] = redis.call('HGET', KEYS[2], rows[index])
      end
    end
  end
  return found
end

function reads.view()
  local record = load()
  return record and { 'ok', cjson.encode({ record = cjson.encode(record), now = now }) } or { 'ok' }
end

-- What a user without rights cannot do fails here, before anything begins.
function reads.probe()
  redis.call('SET', KEYS[1], '', 'PX', 1)
  announce(ENVIRONMENT)
  return { 'ok' }
end

local function run()
  if reads[operation] then
    return reads[operation]()
  end
  local first = KEYS[4] and redis.call('GET', KEYS[4])
  if first then
    return { 'ok', first }
  end
  local answer
  if writes[operation] then
    answer = cjson.encode({ value = writes[operation](load()) })
  else
    local value, record = changes[operation](load())
    save(record)
    if operation ~= 'renew' or value then -- members need not hear of each other's renewals
      announce(ENVIRONMENT)
    end
    answer = cjson.encode({ value = value, record = cjson.encode(record), now = now })
  end
  if KEYS[4] then
    redis.call('SET', KEYS[4], answer, 'EX', ANSWERS_KEPT)
  end
  return { 'ok', answer }
end

local is_good, result = pcall(run)
if is_good then
  return result
end
if type(result) == 'table' and result.kind then
  return { 'refused', result.kind, cjson.encode(result.facts) }
end
if type(result) == 'table' and result.err then -- of `redis.call`, from Redis 7 on
  return result
end
error(result)
