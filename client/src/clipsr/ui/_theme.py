"""How the pages look: system fonts, the browser's own light or dark mode, one style sheet."""
# gradio's annotations are incomplete.
# pyright: basic

from __future__ import annotations

from importlib import resources

from gradio import themes

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> themes.Base:
    """Return the theme. Fonts given as words are taken from the machine; gradio's own would come from Google."""
    return themes.Default(
        primary_hue=themes.colors.teal,
        secondary_hue=themes.colors.teal,
        neutral_hue=themes.colors.slate,
        radius_size=themes.sizes.radius_md,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        # gradio's own shades of these have less contrast than text needs (WCAG 2.2, 1.4.3).
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        color_accent="*primary_700",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
    )


def make_css() -> str:
    """Return the style sheet of what _markup draws."""
    return resources.files("clipsr.ui").joinpath("pages.css").read_text(encoding="utf-8")
