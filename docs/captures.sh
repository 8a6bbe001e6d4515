#!/usr/bin/env bash
# What the command looks like in a terminal: runs it in tmux at 80x24 and 160x50 and writes the screens to docs/captures/.
# Needs tmux and `dola` on the path. The speeds in the screens are those of the machine it runs on.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p captures

folder=$(mktemp -d)
trap 'rm -rf "$folder"; tmux -L dola-captures kill-server 2>/dev/null || true' EXIT
printf '%s\n' "What is the capital of France?" "Name a colour." "Who wrote Hamlet?" >"$folder/questions.txt"

tmux -L dola-captures new-session -d -s base  # or the server would end with each screen
screen() {  # name, command: one screen for each size
    local size name=$1 command=$2
    for size in 80x24 160x50; do
        rm -f "$folder/answers.jsonl"
        tmux -L dola-captures new-session -d -s screen -c "$folder" -x "${size%x*}" -y "${size#*x}" \
            "env PS1='$ ' bash --norc --noprofile"
        tmux -L dola-captures send-keys -t screen "clear; $command; tmux -L dola-captures wait-for -S done" Enter
        tmux -L dola-captures wait-for done
        sleep 0.5
        {
            echo "$ $command"
            tmux -L dola-captures capture-pane -p -t screen
        } | sed 's/[[:space:]]*$//' | cat -s | sed '$d' >"captures/$name-$size.txt"  # the last line is the next prompt
        tmux -L dola-captures kill-session -t screen
        echo "docs/captures/$name-$size.txt"
    done
}

question='"On what date was the Declaration of Independence officially signed?"'
screen compare "dola compare $question"
screen compare-no-color "NO_COLOR=1 dola compare $question"
screen help "dola --help"
screen generate "dola generate $question"
screen file "dola generate --file questions.txt --output answers.jsonl --max-new-tokens 20"
screen mistake "dola generate Hello --layers 28,30,31"
screen models "dola models list"
screen trace 'dola trace "The capital of Washington State is"'
screen trace-no-color 'NO_COLOR=1 dola trace "The capital of Washington State is"'
