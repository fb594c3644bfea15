"""What is wrong between here and a peer: `causes` judges, without IO, what `examine` has seen."""
