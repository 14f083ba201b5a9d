# shellcheck shell=bash disable=SC2154 # bats sets status, output, stderr
# Shared by the .bats files. The environment names what is tested:
#   CLMLA       the program        CLMLA_PROBE  tests/cli/probe.c
#   GOLDEN_DIR  tests/golden       CLMLA_MAKE_CHECKPOINT  tests/cli/make_checkpoint.c
bats_require_minimum_version 1.5.0

setup() {
    unset CLMLA_PLATFORM CLMLA_DEVICE
    export CLMLA_CACHE_DIR='' CLMLA_TUNING_DIR='' # neither cache nor record, and never the user's
    cd "$BATS_TEST_TMPDIR" || return 1
}

clmla() {
    "$CLMLA" "$@"
}

# Runs the program with stdout in $output and stderr in $stderr.
try() {
    run --separate-stderr clmla "$@"
}

# stderr without the notes that depend on the machine's load: --max-seconds cut runs short.
without_load_notes() {
    sed -E '/^clmla: .*: [0-9]+ runs instead of [0-9]+, to stay within --max-seconds /d' <<<"$stderr"
}

# fails_with CODE TEXT...: the exit code, nothing on stdout, one line on stderr (but for notes on load)
# that begins with "clmla: " and holds every text.
fails_with() {
    local code=$1 error text
    shift
    error=$(without_load_notes)
    if [ "$status" -ne "$code" ] || [ -n "$output" ] || [ -z "$error" ] ||
        [[ "$error" == *$'\n'* ]] || [[ "$error" != "clmla: "* ]]; then
        show_result
        return 1
    fi
    for text in "$@"; do
        if [[ "$error" != *"$text"* ]]; then
            echo "not on stderr: $text"
            show_result
            return 1
        fi
    done
}

passes() {
    if [ "$status" -ne 0 ]; then
        show_result
        return 1
    fi
}

# Nothing on stderr. "notes" allows those on load.
is_quiet() {
    local rest=$stderr
    if [ "${1:-}" = notes ]; then
        rest=$(without_load_notes)
    fi
    if [ -n "$rest" ]; then
        show_result
        return 1
    fi
}

show_result() {
    printf 'exit code %s\nstdout: %s\nstderr: %s\n' "$status" "$output" "$stderr"
}

# json PATH: that value of the document in $output.
json() {
    "$CLMLA_PROBE" json "$1" <<<"$output"
}

golden() {
    printf '%s/%s.safetensors\n' "$GOLDEN_DIR" "$1"
}

# The commands of clmla --help that have options.
commands_with_options() {
    "$CLMLA" --help | sed -n 's/^  \([a-z]*\)  .*/\1/p'
}

# help_options COMMAND: "name value" of each option that its --help lists.
help_options() {
    "$CLMLA" "$1" --help | sed -nE 's/^(      |  -., )--([a-z0-9-]+)(=([^ ]+))?( .*)?$/\2 \4/p' |
        sed 's/ $//'
}

# checkpoint CASE [LAYER [DTYPE [SHARDS]]]: that golden case as a checkpoint and an input file in a
# new folder "model".
checkpoint() {
    rm -rf model
    mkdir model
    "$CLMLA_MAKE_CHECKPOINT" "$(golden "$1")" model "${@:2}"
}

# poke FILE TENSOR: 65536 in bf16 as the tensor's first element.
poke() {
    local length offset
    length=$(od -An -tu8 -N8 "$1")
    offset=$(dd if="$1" bs=1 skip=8 count="$((length))" status=none |
        sed -n 's/.*"'"$2"'":{[^}]*"data_offsets":\[\([0-9]*\),.*/\1/p')
    printf '\x80\x47' | dd of="$1" bs=1 seek="$((8 + length + offset))" conv=notrunc status=none
}

# model NAME HIDDEN HEADS KV_LORA_RANK NOPE ROPE V: the config.json of a model without q LoRA, NAME.json;
# not in the test's own folder.
model() {
    cat >"$BATS_FILE_TMPDIR/$1.json" <<JSON
{"model_type": "deepseek_v2", "hidden_size": $2, "num_attention_heads": $3, "q_lora_rank": null,
 "kv_lora_rank": $4, "qk_nope_head_dim": $5, "qk_rope_head_dim": $6, "v_head_dim": $7,
 "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": null,
 "max_position_embeddings": 4096}
JSON
    echo "$BATS_FILE_TMPDIR/$1.json"
}

# One so small that a run takes no time.
tiny() {
    model tiny 64 4 32 16 8 16
}
