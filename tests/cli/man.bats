#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

# CLMLA_MAN: clmla.1 as it is installed.

# page_options COMMAND: "name value" of each option that the page describes for it.
page_options() {
    awk -v command="$1" '
        /^\.\\" options of: / {wanted = 0; for (i = 4; i <= NF; i++) wanted = wanted || $i == command}
        /^\.El/ {wanted = 0}
        wanted && /^\.It Fl -/ {
            name = substr($3, 2)
            value = ""
            for (i = 4; i <= NF; i++)
                if ($i != "Ns" && $i != "Ar" && $i != "=")
                    value = value $i
            print name (value == "" ? "" : " " value)
        }' "$CLMLA_MAN"
}

@test "every command has a section and a synopsis" {
    commands=$("$CLMLA" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p')
    [ "$(sed -n '/^\.Sh COMMANDS/,/^\.Sh OPTIONS/s/^\.Ss //p' "$CLMLA_MAN")" = "$commands" ]
    for command in $commands; do
        sed -n '/^\.Sh SYNOPSIS/,/^\.Sh DESC/p' "$CLMLA_MAN" | grep -qx "\.Cm $command"
    done
}

@test "the page has each option of each command, with its value, and no other" {
    for command in $(commands_with_options); do
        if ! diff <(help_options "$command" | sort) <(page_options "$command" | sort); then
            echo "differ: clmla $command --help (<) and the page (>)"
            return 1
        fi
    done
}

@test "the page has the variables that the program reads" {
    variables=$(grep -rhoE '(getenv|from_environment|default_environment)\("[A-Z_]+"' \
        "$BATS_TEST_DIRNAME/../../src/cli" | sed 's/.*"\(.*\)"/\1/' | sort -u)
    [ -n "$variables" ]
    for variable in $variables; do
        grep -qE "^\.It Ev .*\b$variable\b" "$CLMLA_MAN"
    done
}

@test "the page has the members of a report" {
    try report --model "$(tiny)" --max-seconds 1
    passes
    page=$(sed -n '/^\.Sh REPORT FORMAT/,/^\.Sh ENV/p' "$CLMLA_MAN" |
        sed -n 's/^\.It Va //p' | tr -d ' ' | tr ',' '\n' | sort)
    [ "$page" = "$("$CLMLA_PROBE" keys <<<"$output" | sort)" ]
}

@test "the page names the version" {
    grep -qx "\.Os $("$CLMLA" --version)" "$CLMLA_MAN"
}

@test "mandoc has nothing to say" {
    command -v mandoc >/dev/null || skip "mandoc is not installed"
    run mandoc -T lint -W style "$CLMLA_MAN"
    [ "$status" -eq 0 ] && [ -z "$output" ] || show_result
    [ -z "$output" ]
}

@test "groff has nothing to say" {
    command -v groff >/dev/null || skip "groff is not installed"
    run groff -ww -z -mdoc -T utf8 "$CLMLA_MAN"
    [ "$status" -eq 0 ] && [ -z "$output" ]
}
