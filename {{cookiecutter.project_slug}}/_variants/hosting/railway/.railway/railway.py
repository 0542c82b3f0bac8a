{% from "servers.jinja" import given, managed with context %}
"""The Railway project: its processes, and the servers that they need.

`railway config plan` shows what it would change, and `railway config apply` does it: see DEPLOY.md. The program must
print nothing, since Railway reads what it prints.
"""

import railway_sdk

REPOSITORY = "OWNER/REPOSITORY"  # yours, on GitHub
SOURCE = {"source": railway_sdk.github(REPOSITORY), "build": {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}}


@railway_sdk.define_railway
def main() -> railway_sdk.Project:
    """Describe the project."""
    shared = railway_sdk.create_railway_context().shared  # the variables that you set once for all
    database = railway_sdk.postgres("postgres")
{% for server in managed %}
    broker = railway_sdk.{{ server.service }}("{{ server.service }}")
{% endfor %}
    environment = {
        "SECRET_KEY": shared.SECRET_KEY,  # one for all processes: it signs tasks as well as sessions
        "ALLOWED_HOSTS": "$RAILWAY_PUBLIC_DOMAIN",  # add your own domain, after a comma
        "CSRF_TRUSTED_ORIGINS": "https://$RAILWAY_PUBLIC_DOMAIN",
        "DATABASE_URL": database.env.DATABASE_URL,
{% for server in managed %}
        "{{ server.variable }}": broker.env.{{ server.address }},
{% endfor %}
{% for variable in given %}
        "{{ variable.name }}": shared.{{ variable.name }},
{% endfor %}
        "Q_GRACE": "{{ cookiecutter.__grace }}",
    }
    # Seconds between SIGTERM and SIGKILL, 5 above Q_GRACE; Railway's own are 0.
    deploy = {"drainingSeconds": {{ cookiecutter.__stop_window }}, "restartPolicyType": "ALWAYS"}
    web = railway_sdk.service(
        "web",
        **SOURCE,
        start="python manage.py prodserver web",
        preDeploy="python manage.py release",  # if it fails, the old version stays
        healthcheck="/readyz",  # asked until it answers, and never again
        healthcheckTimeout=120,
        env=environment,
        deploy={**deploy, "overlapSeconds": 10},
    )
    worker = railway_sdk.service(
        "worker", **SOURCE, start="python manage.py prodserver worker", env=environment, deploy=deploy
    )
{% for name in cookiecutter._queues[cookiecutter.queues].slow %}
    {{ name }} = railway_sdk.service(
        "worker-{{ name }}",
        **SOURCE,
        start="python manage.py prodserver worker-{{ name }}",
        env={**environment, "Q_GRACE": "{{ cookiecutter.__slow_grace }}"},
        deploy={**deploy, "drainingSeconds": {{ cookiecutter.__slow_stop_window }}},
    )
{% endfor %}
    return railway_sdk.project(
        "{{ cookiecutter.__distribution }}",
        resources=[database,{% for _ in managed %} broker,{% endfor %} web, worker{% for name in cookiecutter._queues[cookiecutter.queues].slow %}, {{ name }}{% endfor %}],
    )
