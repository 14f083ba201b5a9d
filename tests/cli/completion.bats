#!/usr/bin/env bats
# shellcheck disable=SC2154 # bats sets status, output, lines and stderr
load common

source_completion() {
    # shellcheck source=/dev/null
    . "$BATS_TEST_DIRNAME/../../tools/completion/clmla.bash"
}

# offers WORD...: prints what is offered for the last word of a line, one a line, sorted.
offers() {
    COMP_WORDS=(clmla "$@")
    COMP_CWORD=$#
    COMPREPLY=()
    _clmla
    printf '%s\n' "${COMPREPLY[@]}" | sort
}

# The same without the line break of an empty list.
offers_words() {
    offers "$@" | paste -sd ' '
}

@test "bash is told" {
    source_completion
    [ "$(complete -p clmla)" = "complete -F _clmla clmla" ]
}

@test "commands, as clmla --help lists them" {
    source_completion
    commands=$("$CLMLA" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p')
    [ "$(offers '')" = "$(printf '%s\n' "$commands" --help --version | sort)" ]
    [ "$(offers_words ve)" = verify ]
    [ "$(offers_words --v)" = --version ]
    [ -z "$(offers_words nosuch)" ]
}

@test "options of each command, as its --help lists them" {
    source_completion
    for command in $(commands_with_options); do
        listed=$(help_options "$command" | sed 's/ .*//; s/^/--/' | sort)
        if ! diff <(echo "$listed") <(offers "$command" --); then
            echo "differ: clmla $command --help (<) and the completion (>)"
            return 1
        fi
    done
    [ "$(offers_words bench --cpu --kernel-)" = --kernel-dir ]
}

@test "values of each option, as --help shows them" {
    source_completion
    touch a.safetensors b.json c.txt d.tuning
    mkdir folder
    for command in $(commands_with_options); do
        while read -r option value; do
            case $value in
            '') continue ;; # a flag
            *.safetensors) wanted="a.safetensors folder" ;;
            'DIR|FILE') wanted="a.safetensors folder" ;;
            DIR) wanted=folder ;;
            'FILE.tuning|none') wanted="d.tuning folder none" ;;
            'lite|r1|CONFIG.json') wanted="b.json folder lite r1" ;;
            *.json) wanted="b.json folder" ;;
            ?) wanted='' ;; # a letter stands for a number, a list of them or a name
            *) wanted=$(sort <<<"${value//[|,]/$'\n'}" | paste -sd ' ') ;;
            esac
            if [ "$(offers_words "$command" "--$option" '')" != "$wanted" ] ||
                [ "$(offers_words "$command" "--$option" =)" != "$wanted" ]; then
                echo "clmla $command --$option: $(offers_words "$command" "--$option" ''), not $wanted"
                return 1
            fi
        done < <(help_options "$command")
    done
}

@test "values that are begun" {
    source_completion
    [ "$(offers_words bench --dtype f)" = "f16 f32" ]
    [ "$(offers_words bench --dtype = f)" = "f16 f32" ]
    [ "$(offers_words verify --format j)" = json ]
    [ "$(offers_words bench --device 0 --format c)" = csv ]
}

@test "lists with commas: each word once" {
    source_completion
    [ "$(offers_words bench --case pre)" = prefill ]
    [ "$(offers_words bench --case prefill,)" = prefill,decode ]
    [ "$(offers_words bench --projection native,)" = "native,auto native,clblast" ]
    [ "$(offers_words bench --projection native,c)" = native,clblast ]
    [ -z "$(offers_words bench --mode batched,sequential,)" ]
    [ -z "$(offers_words verify --projection native,)" ]
}

@test "files of verify and report; none where no argument follows" {
    source_completion
    touch a.safetensors 'with blank.safetensors' c.txt
    mkdir folder
    for command in verify report; do
        [ "$(offers "$command" '')" = "$(printf '%s\n' a.safetensors folder 'with blank.safetensors')" ]
        [ "$(offers "$command" --cpu w)" = 'with blank.safetensors' ]
    done
    [ -z "$(offers_words bench '')" ]
    [ -z "$(offers_words devices '')" ]
}
