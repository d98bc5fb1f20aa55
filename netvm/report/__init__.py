"""Pictures and tables of a recording: readers and writers of trace formats, the profile, the difference, the page."""
