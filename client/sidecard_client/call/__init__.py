"""What a call is: key, policy, values and failures. Sans-I/O."""
