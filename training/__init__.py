"""How the router's weights are made, and how good they are. Not part of the service; standard library only.

python -m training CORPUS/routing.csv            evaluate the shipped weights on prompts they never saw
python -m training CORPUS/routing.csv --choose   the cross-validation, within the training part alone
python -m training CORPUS/routing.csv --write    make the weights again: the same bytes
"""
