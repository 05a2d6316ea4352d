"""Does super-resolution help CLIP? The published comparison, with controls, seeds and intervals.

A student study of CLIP and LIIF reports 95.0 % against 96.5 % on 2,000 CIFAR-10 test images: 10,000 training images as
they are, or enlarged twice by LIIF, one seed each. `clipsr-eval experiment` repeats it as a factorial.
"""
