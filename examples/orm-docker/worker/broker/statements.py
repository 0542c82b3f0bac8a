"""What PostgreSQL is asked, each in one statement: the queue is django-q2's table, and all times are the server's."""

from worker.broker.locks import DELAYED, LEASED, PUT_OFF

# With one commit, where a notification of its own would take another.
ENQUEUE = """
WITH task AS (INSERT INTO django_q_ormq (key, payload, lock) VALUES (%s, %s, %s) RETURNING id)
SELECT id, pg_notify(%s, '') FROM task
"""

# What is due comes before what waits, each in order, past what other clusters are taking at this moment, and in one
# round trip. The limit of both is a number: of another one PostgreSQL assumes that it is large, and sorts all.
# Each row tells how often the task's lease ran out, whether it was handed out before, and whether it comes first. If
# there is nothing, the one row that comes tells in how many seconds there may be something.
CLAIM = f"""
WITH due AS (SELECT id, lock, octet_length(payload) AS size FROM django_q_ormq
             WHERE key = %(key)s AND lock > %(used)s AND lock <= statement_timestamp()
             ORDER BY lock, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
     waiting AS (SELECT id, lock, octet_length(payload) AS size FROM django_q_ormq
                 WHERE key = %(key)s AND lock <= %(used)s
                 ORDER BY lock, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
     reach AS (SELECT id, lock, sum(size) OVER queue AS size, row_number() OVER queue AS place
               FROM (TABLE due UNION ALL TABLE waiting) AS free
               WINDOW queue AS (ORDER BY lock <= %(used)s, lock, id)),
     taken AS (UPDATE django_q_ormq AS task
               SET lock = date_trunc('milliseconds', statement_timestamp() + %(lease)s) + '{LEASED} us'
               FROM reach WHERE task.id = reach.id AND place <= %(limit)s AND (reach.size <= %(size)s OR place = 1)
               RETURNING task.id, task.payload, task.lock, reach.lock AS former,
                         extract(microseconds FROM reach.lock)::int %% 1000 AS digits, place),
     counted AS (INSERT INTO worker_lapse (task, times) SELECT id, 1 FROM taken
                 WHERE former > %(used)s AND digits NOT IN ({PUT_OFF}, {DELAYED})
                 ON CONFLICT (task) DO UPDATE SET times = worker_lapse.times + 1 RETURNING task, times)
SELECT id, payload, lock::text, coalesce(counted.times, known.times, 0),
       former <> %(free)s AND digits <> {DELAYED}, former <> %(free)s, NULL, place
FROM taken LEFT JOIN counted ON counted.task = id LEFT JOIN worker_lapse AS known ON known.task = id
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, (
    SELECT extract(epoch FROM min(lock) - statement_timestamp())::float FROM django_q_ormq
    WHERE key = %(key)s AND lock > statement_timestamp()
), NULL WHERE NOT EXISTS (SELECT FROM taken) ORDER BY place
"""  # noqa: S608 (numbers of this app's)
# The same, where the database is a file.
FREE_IN_FILE = """
SELECT * FROM (SELECT id, payload, lock FROM django_q_ormq
               WHERE key = %(key)s AND lock > %(used)s AND lock <= %(now)s ORDER BY lock, id LIMIT %(limit)s)
UNION ALL
SELECT * FROM (SELECT id, payload, lock FROM django_q_ormq
               WHERE key = %(key)s AND lock <= %(used)s ORDER BY lock, id LIMIT %(limit)s)
"""

# What this process holds by now, as far as it knows: the next ones begin with it.
HELD = "WITH held AS (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS held (id, lock)),"
# It waits for nobody: another thread may be removing in a transaction what is locked, and be waiting for this one.
RENEW = f"""
     mine AS (SELECT task.id FROM django_q_ormq AS task JOIN held USING (id, lock) FOR UPDATE OF task SKIP LOCKED),
     renewed AS (UPDATE django_q_ormq AS task SET lock = date_trunc('milliseconds', statement_timestamp() + %s)
                 + '{LEASED} us'
                 FROM mine WHERE task.id = mine.id RETURNING task.id, task.lock)
SELECT id, coalesce(renewed.lock, task.lock)::text FROM held JOIN django_q_ormq AS task USING (id, lock)
LEFT JOIN renewed USING (id) WHERE renewed.lock IS NOT NULL OR task.lock > statement_timestamp()
"""  # noqa: S608 (likewise)
# Other clusters are told, since this one may be busy when they are due, or gone.
RELEASE = """
     due AS (SELECT * FROM unnest(%s::bigint[], %s::interval[]) AS due (id, delay)),
     freed AS (UPDATE django_q_ormq AS task
               SET lock = CASE WHEN delay > '0' THEN date_trunc('milliseconds', statement_timestamp() + delay) + '1 ms'
                               ELSE %s END
               FROM held JOIN due USING (id) WHERE task.id = held.id AND task.lock = held.lock RETURNING task.id)
SELECT pg_notify(%s, '') WHERE EXISTS (SELECT FROM freed)
"""
REMOVE = """
     gone AS (DELETE FROM django_q_ormq AS task USING held WHERE task.id = held.id AND task.lock = held.lock
              RETURNING task.id)
DELETE FROM worker_lapse USING gone WHERE task = gone.id
"""

# How the statements below say the same where the database is a server, and where it is a file.
ON_SERVER = {
    "now": "statement_timestamp()",
    "leased": f"extract(microseconds FROM lock)::int %% 1000 NOT IN ({PUT_OFF}, {DELAYED})",
    "epoch": "extract(epoch FROM lock)::float",
    "end": "right(payload, 100)",
}
IN_FILE = {
    "now": "%(now)s",
    "leased": f"substr(lock, 24) NOT IN ('', '{PUT_OFF:03}', '{DELAYED:03}')",
    "epoch": "(julianday(lock) - 2440587.5) * 86400",
    "end": "substr(payload, -100)",
}
# What waits and was not delayed has been waiting since it was queued, which the end of its payload tells.
DEPTH = """
SELECT (SELECT count(*)
        FROM (SELECT 1 FROM django_q_ormq WHERE key = %(key)s AND lock <= {now} LIMIT %(most)s) AS free),
       count(CASE WHEN NOT {leased} THEN 1 END), count(CASE WHEN {leased} THEN 1 END),
       (SELECT {end} FROM django_q_ormq WHERE key = %(key)s AND lock <= %(used)s ORDER BY lock, id LIMIT 1),
       (SELECT {epoch} FROM django_q_ormq
        WHERE key = %(key)s AND lock > %(used)s AND lock <= {now} ORDER BY lock, id LIMIT 1)
FROM (SELECT lock FROM django_q_ormq WHERE key = %(key)s AND lock > {now} ORDER BY lock LIMIT %(most)s) AS locked
"""
# What is held has a lease that has not run out.
TAKE_OUT = """
WITH free AS (SELECT id FROM django_q_ormq
              WHERE key = %(key)s AND (lock <= {now} OR NOT {leased}) {condition} FOR UPDATE SKIP LOCKED),
     gone AS (DELETE FROM django_q_ormq AS task USING free WHERE task.id = free.id RETURNING task.id),
     forgotten AS (DELETE FROM worker_lapse USING gone WHERE task = gone.id)
SELECT count(*) FROM gone
"""
TAKE_OUT_OF_FILE = "DELETE FROM django_q_ormq WHERE key = %(key)s AND (lock <= {now} OR NOT {leased}) {condition}"
FORGET_LAPSES = "DELETE FROM worker_lapse WHERE NOT EXISTS (SELECT 1 FROM django_q_ormq WHERE id = task)"
