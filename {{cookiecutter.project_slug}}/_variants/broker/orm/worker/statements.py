"""What PostgreSQL is asked, each in one statement: the queue is django-q2's table, and all times are the server's."""

# With one commit, where a notification of its own would take another.
ENQUEUE = """
WITH task AS (INSERT INTO django_q_ormq (key, payload, lock) VALUES (%s, %s, %s) RETURNING id)
SELECT id, pg_notify(%s, '') FROM task
"""

# In order, past what other clusters are taking at this moment, and in one round trip.
CLAIM = """
WITH free AS (SELECT id, lock, octet_length(payload) AS size FROM django_q_ormq
              WHERE key = %s AND lock <= statement_timestamp() ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED),
     reach AS (SELECT id, lock, sum(size) OVER queue AS size, row_number() OVER queue AS place FROM free
               WINDOW queue AS (ORDER BY id)),
     taken AS (UPDATE django_q_ormq AS task SET lock = date_trunc('milliseconds', statement_timestamp() + %s) + '1 us'
               FROM reach
               WHERE task.id = reach.id AND (reach.size <= %s OR place = 1)
               RETURNING task.id, task.payload, task.lock, reach.lock AS former),
     counted AS (INSERT INTO worker_lapse (task, times) SELECT id, 1 FROM taken WHERE former > '1971-01-01'
                   AND former <> date_trunc('milliseconds', former)
                 ON CONFLICT (task) DO UPDATE SET times = worker_lapse.times + 1 RETURNING task, times)
SELECT id, payload, lock::text, coalesce(counted.times, known.times, 0), former > 'epoch' FROM taken
LEFT JOIN counted ON counted.task = id LEFT JOIN worker_lapse AS known ON known.task = id ORDER BY id
"""

# What this process holds by now, as far as it knows: the next ones begin with it.
HELD = "WITH held AS (SELECT * FROM unnest(%s::bigint[], %s::timestamptz[]) AS held (id, lock)),"
# It waits for nobody: another thread may be removing in a transaction what is locked, and be waiting for this one.
RENEW = """
     mine AS (SELECT task.id FROM django_q_ormq AS task JOIN held USING (id, lock) FOR UPDATE OF task SKIP LOCKED),
     renewed AS (UPDATE django_q_ormq AS task SET lock = date_trunc('milliseconds', statement_timestamp() + %s) + '1 us'
                 FROM mine WHERE task.id = mine.id RETURNING task.id, task.lock)
SELECT id, coalesce(renewed.lock, task.lock)::text FROM held JOIN django_q_ormq AS task USING (id, lock)
LEFT JOIN renewed USING (id) WHERE renewed.lock IS NOT NULL OR task.lock > statement_timestamp()
"""
RELEASE = """
     due AS (SELECT * FROM unnest(%s::bigint[], %s::interval[]) AS due (id, delay))
UPDATE django_q_ormq AS task
SET lock = CASE WHEN delay > '0' THEN date_trunc('milliseconds', statement_timestamp() + delay) + '1 ms'
                ELSE '1970-01-02Z' END
FROM held JOIN due USING (id) WHERE task.id = held.id AND task.lock = held.lock
"""
REMOVE = """
     gone AS (DELETE FROM django_q_ormq AS task USING held WHERE task.id = held.id AND task.lock = held.lock
              RETURNING task.id)
DELETE FROM worker_lapse USING gone WHERE task = gone.id
"""
