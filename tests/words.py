"""A tokenizer whose tokens are words, for tiny models: made in milliseconds, saved and loaded like any other."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dola.doctor.checks import PROMPT


def word_tokenizer(size=401):
    """A tokenizer of `size` tokens, the words of the doctor's prompt among them."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *PROMPT.split()]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"word{i}" for i in range(len(words), size))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
