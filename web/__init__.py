"""The studio: the server and the page in the browser."""
