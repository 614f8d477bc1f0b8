"""Fine-tuning as BERT does it: GLUE from its TSV files, SQuAD from its JSON, with their official metrics."""
