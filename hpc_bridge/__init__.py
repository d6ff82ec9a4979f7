"""Moving files and running jobs elsewhere: one flow definition, a durable runner, adapters to where work is done."""
