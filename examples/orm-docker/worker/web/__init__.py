"""What web needs: a gunicorn worker that bears slow clients; middleware for probes, proxies, uploads and outages."""
