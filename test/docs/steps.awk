# Steps of a document, as bash that calls step (or step_user) for each command;
# test/docs/run says what a document may hold. -v file=NAME.

function bad(n, what) { printf "docs-test: %s:%d: %s\n", file, n, what >"/dev/stderr"; failed = 1 }
function flush() {
	if (text != "") printf "%s %s:%d <<\"_END_OF_STEP_\"\n%s_END_OF_STEP_\n", call, file, line, text
	text = ""
}
# A document must not name a target that the Makefile does not have.
function targets(s,  words, n, i) {
	sub(/[;&|#].*/, "", s)
	n = split(s, words, / +/)
	if (words[1] != "make" && words[2] != "make") return
	for (i = 2; i <= n; i++)
		if (words[i] ~ /^[a-z-]+$/ && words[i] != "make" && words[i] != "sudo" && !((words[i] ":") in target)) bad(NR, "no target " words[i] " in the Makefile")
}
BEGIN {
	call = "step"
	while ((getline l <"Makefile") > 0) if (match(l, /^[a-z-]+:/)) target[substr(l, 1, RLENGTH)] = 1
}

# What no reader sees.
hidden && /^-->/ { was = call; call = "unseen"; flush(); call = was; hidden = 0; next }
hidden { text = text $0 "\n"; next }
!block && /^<!-- docs-test: first$/ { hidden = 1; line = NR; next }
!block && /^<!-- docs-test: not run, ..........+ -->$/ { skip = 1; next }
!block && /^<!-- docs-test: as a user -->$/ { call = "step_user"; next }
!block && /^<!-- docs-test/ { bad(NR, "none of: first; as a user; not run, REASON"); next }

# Blocks.
!block && /^ *```/ {
	block = 1; kind = $0; gsub(/[ `]/, "", kind); line = NR + 1; more = heredoc = 0
	if (kind !~ /^(sh|console|text|toml|yaml|json|nft|dockerfile)$/) bad(NR, "a block is sh, console, or what else it shows: text, json ...")
	next
}
block && /^ *```/ { flush(); block = skip = 0; call = "step"; next }
block { targets($0) }
block && skip { next }
block && kind == "sh" { text = text $0 "\n"; next }
block && kind != "console" {
	if (/^([$] |sudo |balena |make )/) bad(NR, "a command in a block of " kind)
	next
}
block && (more || /^\$ /) {
	if (!more) { flush(); line = NR }
	sub(/^[$>] /, ""); text = text $0 "\n"
	if (/<<.?EOF/) heredoc = 1
	else if (/^EOF$/) heredoc = 0
	more = heredoc || /\\$/
	next
}
block { next } # output

# Between blocks.
/^(    |\t)[^ ]/ && blank && !list { bad(NR, "a block without fences") }
/^ *([-*]|[0-9]+\.) / { list = 1 }
NF && !/^ / && (skip || call != "step") { bad(NR, "a docs-test mark stands right in front of a block"); skip = 0; call = "step" }
NF { if (/^[^ ]/ && !/^([-*]|[0-9]+\.) /) list = 0 }
{ blank = !NF }
END {
	flush()
	if (block || hidden) bad(NR, "a block without an end")
	exit failed
}
