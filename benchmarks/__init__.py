"""Speed, as ratios taken in one run: these figures hold on shared and noisy machines too."""
