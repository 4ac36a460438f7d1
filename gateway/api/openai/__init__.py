"""The chat-completions API as OpenAI's clients speak it: `/v1/models` and `/v1/chat/completions`.

`wire` reads a request, `asking` says what it means, `sessions` and `stateless` have it answered,
`answers` and `errors` write what the client gets, `routes` puts them together. Knows no SDK.
"""
