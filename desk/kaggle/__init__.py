"""The conversation with Kaggle, cut by concern. It knows nothing of runs, and decides nothing about them."""
