"""From volumes and regions to named, versioned features."""
