"""What `compare` shows: a table and a picture (`curves.py`), and a page to explore (`page.py`)."""
