// The weights of the built-in extractor, in the program itself: it needs no file beside it.
    .section .rodata
    .global perrin_fashion_weights
    .global perrin_fashion_weights_end
    .balign 16
perrin_fashion_weights:
    .incbin "network.safetensors"
perrin_fashion_weights_end:
    .byte 0
    .section .note.GNU-stack, "", %progbits
