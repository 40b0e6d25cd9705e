"""How a shared environment ends: who cleans it up, once no other run needs it, and who must not."""
