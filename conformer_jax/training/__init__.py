"""The loop and what it needs: program, mesh, checkpoints, records, several processes, SIGTERM."""
