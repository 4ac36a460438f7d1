"""Signed events for programs of the operator's: queued with what they tell, posted until taken."""
