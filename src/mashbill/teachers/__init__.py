"""Teachers of every kind behind one protocol."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classifier": ["LocalClassifier"],
        "protocol": ["CallableTeacher", "Inputs", "Scored", "Teacher"],
        "labelled": ["LabelledTeacher"],
        "local": ["LocalCausalLM"],
        "vocabulary": ["Vocabulary", "require_agreement"],
    },
)
