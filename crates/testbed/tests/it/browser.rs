//! The browser shows pages, and tells what goes wrong on them.

use anyhow::{Result, ensure};
use testbed::{Browser, View};

const PAGE: &str = "data:text/html,<meta name=viewport content='width=device-width'><style>body{color:rgb(1,2,3)}\
    @media (prefers-color-scheme:dark){body{color:rgb(4,5,6)}}</style><p id=p>still</p>\
    <script>p.textContent='moved';console.error('a complaint')</script>";

#[tokio::test]
async fn it_shows_pages() -> Result<()> {
    let browser = Browser::start().await?;
    for (dark, scripts, colour, said) in [
        (false, true, "rgb(1, 2, 3)", "moved"),
        (true, true, "rgb(4, 5, 6)", "moved"),
        (false, false, "rgb(1, 2, 3)", "still"),
    ] {
        let page = browser.open(View { width: 360, height: 640, dark, scripts }).await?;
        page.go(PAGE).await?;
        ensure!(page.evaluate("getComputedStyle(document.body).color").await? == colour);
        ensure!(page.evaluate("document.getElementById('p').textContent").await? == said);
        ensure!(page.evaluate("innerWidth").await? == 360);
        ensure!(page.complaints().len() == usize::from(scripts), "{:?}", page.complaints());
        ensure!(page.screenshot().await?.starts_with(b"\x89PNG"));
        let nowhere = page.go("http://127.0.0.1:9/").await;
        ensure!(nowhere.is_err_and(|error| error.to_string().contains("ERR_")), "port 9 does not answer");
    }
    Ok(())
}
