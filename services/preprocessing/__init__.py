"""From the scanner's images to aligned, bias-corrected, skull-stripped, normalised volumes."""
