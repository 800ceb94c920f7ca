"""Gene expression: its preparation, batch adjustment, differential expression, enrichment and pathway scores.

Every table is samples x genes, indexed by sample. What is estimated from samples (a filter, a batch adjustment, a
target distribution) is fitted on training samples, kept as a frozen object, and applied unchanged to others.
"""
