#!/usr/bin/env bash
# Classify all sample photos by the model of many words, with labels in two languages.
#
#   scripts/with-service.sh BIN scripts/demo-words.sh BIN    where BIN holds clipsr-client, such as .venv-serve/bin
set -euo pipefail

bin=${1:?name the folder that holds clipsr-client, such as .venv-serve/bin}
url=${CLIPSR_URL:?run this by scripts/with-service.sh}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
english=airplane,automobile,bear,broccoli,bus,cat,clock,dog,horse,lamp,laptop,motorcycle,noodles,pizza,rose,gull
english+=,'stop sign',suitcase
chinese=飞机,汽车,熊,西兰花,公共汽车,猫,时钟,狗,马,灯,笔记本电脑,摩托车,面条,披萨,玫瑰,海鸥,停车标志,行李箱

heading() {
    printf '\n── %s\n' "$*"
}

classify() {
    "$bin/clipsr-client" classify --url "$url" "$@"
}

heading 'What is being served'
"$bin/clipsr-client" info --url "$url" | sed '/^$/,$d'

heading 'What the sample photos show'
classify samples/*.png samples/*.jpg --labels "$english" --top-k 3

heading 'The same labels in Chinese'
classify samples/*.png samples/*.jpg --labels "$chinese" --top-k 1

heading 'A picture that shows none of the labels'
classify samples/stop-sign.jpg samples/cat.png --labels cat,dog,horse --top-k 1 --none-of-these
