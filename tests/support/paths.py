"""A name with what shells, compilers, templates and terminals take for their own."""

NASTY = "- a'b\"c\\d$(touch ran)`touch ran`\n[bold]{0}%s;|&<é模>@x#y~*?=,:\t\x1b[2J"
