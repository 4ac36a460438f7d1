"""Standard Webhooks: signed bodies, proven as they come in and posted as they go out.

Source: https://www.standardwebhooks.com.
"""
