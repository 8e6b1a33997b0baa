# bash completion for onward
_onward()
{
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W 'serve check-config send queue health route trace status help --version' -- "$word"))
    elif [ "${COMP_WORDS[COMP_CWORD - 1]}" = -c ] || [ "${COMP_WORDS[COMP_CWORD - 1]}" = --config ]; then
        COMPREPLY=($(compgen -f -- "$word"))
    elif [ "$COMP_CWORD" -eq 2 ] && [ "$command" = queue ]; then
        COMPREPLY=($(compgen -W 'list show retry hold release bounce' -- "$word"))
    elif [ "$COMP_CWORD" -eq 2 ] && [ "$command" = health ]; then
        COMPREPLY=($(compgen -W 'list demote clear' -- "$word"))
    elif [ "$command" = check-config ]; then
        COMPREPLY=($(compgen -f -- "$word"))
    else
        COMPREPLY=($(compgen -W '--config --json --domain --all --state --older --content --for --fresh --probe --from --message' -- "$word"))
    fi
}
complete -F _onward onward
