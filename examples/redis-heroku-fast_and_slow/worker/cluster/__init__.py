"""What runs: a supervisor, an agent and workers.

    supervisor ──┬─ agent     claims tasks, keeps their leases, hands them out, saves results, looks for due schedules
                 └─ workers   run tasks, and whatever else is a user's

Two rules keep it alive. Whoever supervises does nothing else: it touches no database, broker, cache or code of a
user, and each of its waits ends. And where other people's tasks are held, no user's object is opened and no user's
code runs: the agent handles bytes, strings and numbers; what a worker dies of costs that one task an attempt.
"""
