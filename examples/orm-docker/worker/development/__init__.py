"""What `make run` needs: processes that begin anew when a file is saved, and a debugger on their terminal."""
