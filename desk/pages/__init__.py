"""HTML pages to look at: their templates, styles and scripts, and the Python that fills them."""
