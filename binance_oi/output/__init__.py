"""What a recording becomes: files of data, charts, a report."""
