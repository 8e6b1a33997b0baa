# bash completion for onward. tests/e2e/test_packaging.py holds it to `onward help` and to the options in workers/cli.

_onward()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} words
    if [ "$COMP_CWORD" -eq 1 ]; then
        words='serve check-config send queue suspend resume health route trace status top help --version'
    else
        case $before in
        -c | --config | --message)
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
        --state) words='active deferred suspended held' ;;
        --domain | --older | --for | --wait | --reason | --from | --server) words='' ;;
        *) words=$(_onward_arguments "${COMP_WORDS[1]}" "${COMP_WORDS[2]}") ;;
        esac
        if [ "${COMP_WORDS[1]}" = check-config ] && [ "$COMP_CWORD" -eq 2 ]; then
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

# What may follow a command, given its next word.
_onward_arguments()
{
    case "$1 $2" in
    'queue list') echo --domain --state --older --limit --json --config ;;
    'queue show') echo --content --json --config ;;
    'queue retry' | 'queue hold' | 'queue release' | 'queue bounce') echo --domain --all --json --config ;;
    'health list' | 'health clear') echo --json --config ;;
    'health demote') echo --for --json --config ;;
    queue\ *) echo list show retry hold release bounce --json --config ;;
    health\ *) echo list demote clear --json --config ;;
    'suspend list') echo --json --config ;;
    suspend\ *) echo list --all --for --reason --json --config ;;
    resume\ *) echo --all --json --config ;;
    route\ *) echo --fresh --json --config ;;
    trace\ *) echo --probe --wait --from --message --json --config ;;
    send\ *) echo -f -F -t -i -N -R -V -B --server --config ;;
    status\ *) echo --json --config ;;
    top\ *) echo --json --config ;;
    serve\ *) echo --config ;;
    esac
}

complete -F _onward onward
