# shellcheck shell=bash
# Completion of clmla for bash 4 and later. Installed where bash-completion looks for it; else
#     . clmla.bash
# tests/cli/completion.bats compares it with the options that clmla COMMAND --help lists.

_clmla_options() {
    local device='--platform --device --nvidia --amd --intel --moore --metax --iluvatar --cpu'
    local computation='--dtype --projection --matrix-units --clblast-overrides --sm-90a --kernels
        --one-launch --batch-invariant --kernel-dir --no-cache --tuning --page-block-size --seed
        --verbose'
    local fp8='--weights-dtype --cache-dtype'
    case $1 in
    devices) echo "--measure $device --format --help" ;;
    bench)
        echo "--model --case --mode --seqlens --pastlens --warmup --runs --max-seconds --layers --tp
            --stages --check --sweep --batches --contexts --heads $fp8 $device $computation --format
            --help"
        ;;
    verify) echo "$fp8 $device $computation --format --help" ;;
    run) echo "--case --output --weights --layer --input $fp8 $device $computation --help" ;;
    report) echo "--output --model --max-seconds $fp8 $device $computation --help" ;;
    tune) echo "--model --tp --ops --rows --max-seconds --again $fp8 $device $computation --help" ;;
    esac
}

# The words that begin with what stands there.
_clmla_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur")
}

# Several of the words, with commas between.
_clmla_list() {
    local before='' words=$1 word
    if [[ $cur == *,* ]]; then
        before=${cur%,*},
    fi
    COMPREPLY=()
    for word in $words; do
        if [[ ",$before" != *",$word,"* && $word == "${cur##*,}"* ]]; then
            COMPREPLY+=("$before$word")
        fi
    done
}

# Files whose names end like that, and folders on the way; added to what is there.
_clmla_files() {
    local names
    mapfile -t names < <({ compgen -f -X "!*$1" -- "$cur"; compgen -d -- "$cur"; } | sort -u)
    COMPREPLY+=("${names[@]}")
    compopt -o filenames 2>/dev/null || true # fails outside of a completion
}

# The value of option $2 of command $1. False: it takes none.
_clmla_value() {
    COMPREPLY=()
    case $2 in
    --format) _clmla_words 'table csv json' ;;
    --dtype) _clmla_words 'bf16 f16 f32' ;;
    --weights-dtype | --cache-dtype) _clmla_words 'same fp8' ;;
    --matrix-units) _clmla_words 'auto off' ;;
    --clblast-overrides) _clmla_words 'on off' ;;
    --kernels) _clmla_words 'auto cpu gpu nvidia' ;;
    --check) _clmla_words 'full sample off' ;;
    --mode) _clmla_list 'sequential batched' ;;
    --projection)
        if [ "$1" = bench ]; then
            _clmla_list 'auto native clblast'
        else
            _clmla_words 'auto native clblast'
        fi
        ;;
    --case)
        if [ "$1" = bench ]; then
            _clmla_list 'prefill decode'
        else
            _clmla_files .safetensors
        fi
        ;;
    --model)
        _clmla_words 'lite r1'
        _clmla_files .json
        ;;
    --output)
        if [ "$1" = report ]; then
            _clmla_files .json
        else
            _clmla_files .safetensors
        fi
        ;;
    --weights | --input) _clmla_files .safetensors ;;
    --tuning)
        _clmla_words none
        _clmla_files .tuning
        ;;
    --ops) _clmla_list 'projection attention backend' ;;
    --kernel-dir) _clmla_files / ;; # folders alone
    # Numbers and parts of names: nothing to offer.
    --platform | --device | --seqlens | --pastlens | --warmup | --runs | --max-seconds | --layers | \
        --tp | --batches | --contexts | --heads | --layer | --page-block-size | --seed | --rows) ;;
    *) return 1 ;;
    esac
}

_clmla() {
    local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} option
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _clmla_words 'devices bench verify run report tune --help --version'
        return
    fi
    # bash makes three words of --option=value.
    option=${COMP_WORDS[COMP_CWORD - 1]}
    if [ "$cur" = = ]; then
        cur=''
    elif [ "$option" = = ]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if _clmla_value "$command" "$option"; then
        return
    fi
    COMPREPLY=()
    if [[ $cur == -* ]]; then
        _clmla_words "$(_clmla_options "$command")"
    elif [ "$command" = verify ] || [ "$command" = report ]; then
        _clmla_files .safetensors
    fi
}

complete -F _clmla clmla
