"""One HTML file about a run or a comparison, from what its workdir holds."""
