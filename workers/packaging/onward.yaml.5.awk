# Makes the manual page onward.yaml(5) of the commented configuration, core/config/onward.yaml, which stays the one place
# where a key is described:
#
#     awk -v version=0.1.0 -f onward.yaml.5.awk core/config/onward.yaml
#
# What it reads is what that file consists of. A comment is "# text"; one with more spaces behind the "#" stands as it
# is. It speaks for the keys that follow it, each "key: default", commented out as "#key: default" or not. "name:" alone
# opens a section. Anything else is an error, so that nothing can be missing from the page unseen.

BEGIN {
    printf ".TH ONWARD.YAML 5 \"\" \"Onward %s\" \"File formats\"\n", version
    print ".SH NAME\nonward.yaml \\- configuration of the mail relay onward"
    print ".SH SYNOPSIS\n.I /etc/onward/onward.yaml"
    print ".SH DESCRIPTION\n.ad l"
}

/^ *$/ { end_of_entry(); next }
/^ *#( |$)/ {
    if (has_keys)
        end_of_entry()
    sub(/^ *# ?/, "")
    comment = comment (/^ / || as_it_is ? "\n.br\n" : comment == "" ? "" : "\n") roff($0)
    as_it_is = /^ /
    next
}
/^[a-z_]+:$/ {
    sub(/:$/, "")
    section = $0
    open_keys()
    printf ".SS %s\n", section
    end_of_entry()
    next
}
/^ *#?[a-z_0-9]+: / {
    if ($0 !~ /^ /)
        section = ""
    open_keys()
    sub(/^ *#?/, "")
    name = substr($0, 1, index($0, ":") - 1)
    value = substr($0, index($0, ":") + 2)
    gsub(/-/, "\\-", value)
    printf "%s\n\\fB%s%s\\fR: %s%s\n", has_keys ? ".TQ" : ".TP", section == "" ? "" : section ".", name, roff(value),
        comment ~ /Default: / ? "  (for example)" : ""
    has_keys = 1
    next
}
{
    printf "onward.yaml:%d: neither comment, key nor section: %s\n", NR, $0 > "/dev/stderr"
    failed = 1
    exit 1
}

END {
    if (failed)
        exit 1
    end_of_entry()
    print ".SH FILES\n.TP\n.I /usr/share/doc/onward/examples/onward.yaml\nAll of this as a file to copy."
    print ".SH SEE ALSO\n.BR onward (8)"
}

# The first key or section ends the introduction.
function open_keys()
{
    if (!keys_open)
        print ".SH KEYS"
    keys_open = 1
}

# The comment stands behind the keys it speaks for, or alone as a paragraph.
function end_of_entry()
{
    if (comment != "")
        print (has_keys || paragraphs++ == 0 ? "" : ".PP\n") comment
    comment = ""
    as_it_is = 0
    has_keys = 0
}

# Text as roff: no line is taken for a request, `words` stand out.
function roff(text,    parts, n, i, out)
{
    gsub(/\\/, "\\e", text)
    n = split(text, parts, "`")
    out = parts[1]
    for (i = 2; i <= n; i++)
        out = out (i % 2 == 0 ? "\\fB" : "\\fR") parts[i]
    sub(/^[.']/, "\\\\\\&&", out)
    return out
}
