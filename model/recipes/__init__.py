"""What the training commands do, as functions of a configuration: pretrain, distill, finetune, evaluate, draw."""
